"""The gateway between real Envoys."""
