"""Envoy's rate-limit service, version 3, on the gateway's ledger."""
