"""Batches, files and webhooks, through the gateway and the simulator."""
