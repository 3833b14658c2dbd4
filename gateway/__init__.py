"""The part that carries: HTTP in, HTTP out, translation, streams, telemetry."""

__version__ = "0.1.0"
