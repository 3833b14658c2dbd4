"""Training files, read by who has the URL that we signed, and nobody else."""

from __future__ import annotations

import time

import httpx
import pytest

from gateway.background.tokens import TokenSigner
from gateway.batches.tickets import PATH, Ticket, TicketOffice
from gateway.fine_tuning.urls import HANDOVER, Handover, TuneTicket, TuneUrls
from gateway.secret import Secret
from tests.batches.conftest import SECRET
from tests.fine_tuning.conftest import StartTuning, TuningHouse


def path_of(
    file_id: str,
    *,
    workspace: str = "ws-open",
    secret: str = SECRET,
    expires_in_s: int = 60,
) -> str:
    urls = TuneUrls("http://gw", Secret(secret))
    handover = Handover(workspace, file_id, int(time.time()) + expires_in_s)
    return httpx.URL(urls.file(handover, "train.jsonl")).path


async def test_the_file_comes_without_a_key(tuning: TuningHouse) -> None:
    """With its name in the path, or without."""
    content = bytes(range(256)) * 1000
    path = path_of(await tuning.upload(content))
    for asked in (path, path.rpartition("/")[0]):
        answer = await tuning.gateway.client.get(asked)
        assert (200, content) == (answer.status_code, answer.content)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"secret": "whsec_guessed"}, id="forged"),
        pytest.param({"expires_in_s": -1}, id="expired"),
        pytest.param({"workspace": "ws-other"}, id="another workspace's"),
    ],
)
async def test_what_does_not_let_in_is_a_404(
    tuning: TuningHouse, change: dict[str, object]
) -> None:
    file_id = await tuning.upload()
    refused = await tuning.gateway.client.get(path_of(file_id, **change))  # type: ignore[arg-type]
    assert (404, "route_not_found") == (
        refused.status_code,
        refused.json()["error"]["code"],
    )


async def test_one_bit_makes_it_another_url(tuning: TuningHouse) -> None:
    """Wherever it is."""
    token = path_of(await tuning.upload()).split("/")[-2]
    for place in (0, len(token) // 2, len(token) - 2):
        other = "A" if token[place] != "A" else "B"
        changed = token[:place] + other + token[place + 1 :]
        answer = await tuning.gateway.client.get(f"{HANDOVER}/{changed}")
        assert 404 == answer.status_code


@pytest.mark.parametrize("token", ["A", "AAAA", "%00", "A" * 600, "é"])
async def test_what_is_no_token_is_a_404(tuning: TuningHouse, token: str) -> None:
    assert 404 == (await tuning.gateway.client.get(f"{HANDOVER}/{token}")).status_code


async def test_a_deleted_file_is_handed_over_no_more(tuning: TuningHouse) -> None:
    file_id = await tuning.upload()
    auth = tuning.gateway.auth()
    await tuning.gateway.client.delete(f"/v1/files/{file_id}", headers=auth)
    answer = await tuning.gateway.client.get(path_of(file_id))
    assert 404 == answer.status_code


async def test_without_a_secret_nothing_is_handed_over(
    start_tuning: StartTuning,
) -> None:
    """An empty key would sign for everybody."""
    tuning = await start_tuning(public_url=None, webhook_secret=None)
    file_id = await tuning.upload()
    for secret in ("", SECRET):
        refused = await tuning.gateway.client.get(path_of(file_id, secret=secret))
        assert 404 == refused.status_code


def test_a_token_of_one_use_is_nothing_to_another() -> None:
    """A batch's ticket opens no file, and a file's URL takes no webhook."""
    secret = Secret(SECRET)
    batch = TicketOffice("http://gw", secret).url_of(Ticket("ws", "batch_1", 0, 1))
    urls = TuneUrls("http://gw", secret)
    tune = urls.webhook(TuneTicket("ws", "ftjob-1"))
    token = batch.partition("job=")[2]

    assert urls.handover_of(token) is None
    assert urls.ticket_in(f"tune={token}") is None
    assert urls.handover_of(tune.partition("tune=")[2]) is None
    assert urls.ticket_in(tune.partition("?")[2]) == TuneTicket("ws", "ftjob-1")
    assert TokenSigner(secret, "ticket").read(tune.partition("tune=")[2]) is None


async def test_an_unsigned_event_needs_a_ticket_of_ours(tuning: TuningHouse) -> None:
    event = {"event": "training.completed", "data": {"jobId": "ft_1"}}
    forger = TuneUrls("http://gw", Secret("whsec_guessed"))
    forged = forger.webhook(TuneTicket("ws-open", "ftjob-1")).partition("?")[2]
    for query in ("", "?tune=AAAA", f"?{forged}"):
        refused = await tuning.gateway.client.post(PATH + query, json=event)
        assert 401 == refused.status_code
