"""
Dashboards, recording rules and alerts as code: `python -m grafana` writes them.

What is generated is committed: people import it, and the chart packages it. Metric
names come from `gateway.telemetry.definitions`, so that a renamed metric breaks the
build and not a dashboard.
"""
