"""
What the gateway costs beside its peers: one run, side by side, on one machine.

`make bench` runs it and docs/benchmarks.md explains it. Everything is on loopback, is
bounded in time and ends with the run.
"""
