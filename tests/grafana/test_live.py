"""A real Prometheus beside two replicas: every query has an answer, and a true one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.proofs.telemetry import prove

# A short one: `make prove-telemetry` has the long one, with two workers a replica too.
LOAD_S: Final = 8.0


@pytest.mark.timeout(180)
async def test_a_prometheus_finds_every_query_answered(tmp_path: Path) -> None:
    """After a mixed load; and the counters equal what its clients have counted."""
    checks = await prove(tmp_path, workers=1, seconds=LOAD_S)

    assert [check for check in checks if not check.is_good] == []
