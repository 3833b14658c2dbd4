"""
Distributed traces, and metrics over OTLP: off, and free, unless an exporter is named.

During a request only facts are noted (`facts.py`); its spans are written from them when
it has ended and its answer is with the client (`spans.py`). What the environment says
is in `environment.py`, what is made of it in `setup.py`, and every name that leaves in
`semconv.py`. Nothing outside of this room knows OpenTelemetry.
"""
