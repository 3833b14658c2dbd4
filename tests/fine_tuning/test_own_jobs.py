"""LLMTune's own batches and fine-tunes: passed through, under the plan's limits."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.fine_tuning.conftest import TuningHouse
from tests.batches.conftest import StartHouse
from tests.gateway_under_test import MODEL, gateway_under_test
from tests.upstream import ScriptedUpstream, whole

BATCH = "/v1/batch/inference"
FINE_TUNE = "/v1/fine-tune"
DATASET = "s3://bucket/train.jsonl"
OTHER = {"other": "plan: other\n"}
