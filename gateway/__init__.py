"""The part that carries: HTTP in, HTTP out, translation, streams, telemetry."""

import sys

__version__ = "0.1.0"

# httpx imports a command line of its own where it finds click and rich, which Litestar
# brings: a tenth of every start, for what nobody here calls.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
