"""What operators see of the gateway: its metrics, and how they are exposed."""
