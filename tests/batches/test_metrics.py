"""What a scraper reads of long jobs, through the whole gateway."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.batches.conftest import ENDS_WITHIN_S, BatchHouse, StartHouse, line
from tests.proofs.check import until

PREFIX: Final = "llmtune_gateway_"


async def scraped(house: BatchHouse) -> dict[str, float]:
    """Every series of ours, without the prefix, by its name and labels."""
    text = (await house.client.get("/metrics")).text
    found = re.findall(rf"(?m)^{PREFIX}(\S+) (\S+)$", text)
    return {series: float(value) for series, value in found}


async def until_shown(house: BatchHouse, series: str, value: float) -> dict[str, float]:
    shown: dict[str, float] = {}

    async def is_shown() -> bool:
        shown.update(await scraped(house))
        return shown.get(series) == value

    await until(is_shown, f"{series} {value}", within_s=ENDS_WITHIN_S)
    return shown


async def test_a_batch_is_live_until_it_has_ended(start_house: StartHouse) -> None:
    """With its lines, as the store has it; and then counted by how long it took."""
    house = await start_house(knobs={"webhook_drop": 1.0})
    batch = await house.start([line("a"), line("b")])
    running = 'live_jobs{kind="batches",state="in_progress"}'

    shown = await until_shown(house, running, 1)
    assert shown["batch_lines_waiting"] == 2
    assert shown['work_overdue_seconds{kind="batches"}'] < ENDS_WITHIN_S
    await house.gateway.post(f"/v1/batches/{batch['id']}/cancel")
    await house.ended(batch["id"])

    shown = await until_shown(house, running, 0)
    assert shown["batch_lines_waiting"] == 0
    assert shown['batch_duration_seconds_count{outcome="cancelled"}'] == 1
    # Once more where the cancel came while it ended.
    assert shown['work_total{kind="batches",outcome="done"}'] in {1, 2}


async def test_a_storage_that_fails_is_told(
    start_house: StartHouse, tmp_path: Path
) -> None:
    """By the call, and by the work that has to wait for it."""
    house = await start_house()
    uploaded = await house.upload(b"{}\n")
    assert uploaded.status_code == 200
    shown = await scraped(house)
    assert shown['storage_calls_total{call="put",outcome="ok"}'] == 1
    assert shown['storage_calls_total{call="put",outcome="unavailable"}'] == 0

    (tmp_path / "files").rename(tmp_path / "elsewhere")
    (tmp_path / "files").write_text("no folder")
    assert (await house.upload(b"{}\n")).status_code == 503

    shown = await scraped(house)
    assert shown['storage_calls_total{call="put",outcome="unavailable"}'] == 1


async def test_results_that_do_not_come_are_told(start_house: StartHouse) -> None:
    """By the chunks that are sent again, and are paid for again."""
    house = await start_house(knobs={"webhook_drop": 1.0}, batch_result_timeout_s=0.1)
    batch = await house.start([line("a"), line("b")])
    assert "completed" == (await house.ended(batch["id"]))["status"]

    shown = await scraped(house)
    assert shown['batch_chunks_sent_total{kind="first"}'] == 1
    assert shown['batch_chunks_sent_total{kind="again"}'] == 2
