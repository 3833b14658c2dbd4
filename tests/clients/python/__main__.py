"""Runs every scenario, one JSON line each: `python -m tests.clients.python`."""

from __future__ import annotations

import importlib

from tests.clients.python.scenario import run_all

# Importing a module registers its scenarios.
for name in (
    "models",
    "chat",
    "streams",
    "tools",
    "structured",
    "text",
    "strict",
    "asynchronous",
    "headers",
    "refusals",
    "failures",
    "leaving",
    "retries",
    "batches",
    "tuning",
):
    importlib.import_module(f"tests.clients.python.{name}")

run_all()
