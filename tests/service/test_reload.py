"""Files that change while the gateway serves: taken at once, or refused alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app import Gateway
from gateway.secret import Secret
from gateway.settings import Settings
from policies.keyring import digest_of
from policies.strict_yaml import FileProblems
from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest, until


def files_of(gateway: GatewayUnderTest) -> tuple[Path, Path]:
    settings = gateway.gateway.settings
    assert settings.plans_dir is not None
    assert settings.keys_file is not None
    return settings.plans_dir, settings.keys_file


async def test_a_revoked_key_is_refused_without_a_restart(
    start_gateway: StartGateway,
) -> None:
    """The watch itself, not a call by hand: the file is edited and that is all."""
    gateway = await start_gateway(reload_interval_s=0.02)
    _, keys_file = files_of(gateway)
    assert (await gateway.get("/v1/models")).status_code == 200

    keys_file.write_text("keys: []\n")

    await until(lambda: not len(gateway.gateway.files.keyring), "an empty keyring")
    assert (await gateway.get("/v1/models")).status_code == 401


async def test_a_typo_in_a_plan_does_not_keep_a_key_from_being_revoked(
    start_gateway: StartGateway,
) -> None:
    """Two files, two owners: each is taken or refused for itself."""
    gateway = await start_gateway(reload_interval_s=3600)
    plans_dir, keys_file = files_of(gateway)
    (plans_dir / "open.yaml").write_text("plan: open\nconcurency: 1\n")
    keys_file.write_text("keys: []\n")

    await gateway.gateway.files.reload_if_changed()

    assert (await gateway.get("/v1/models")).status_code == 401
    metrics = (await gateway.client.get("/metrics")).text
    assert 'llmtune_gateway_reload_refused{what="plans"} 1.0' in metrics
    assert 'llmtune_gateway_reload_refused{what="keys"} 0.0' in metrics


async def test_a_plan_that_keys_still_need_stays_until_they_are_gone(
    start_gateway: StartGateway,
) -> None:
    """A plan and its keys may go in one edit, in whichever order they are seen."""
    gateway = await start_gateway({"old": "plan: old\n"}, reload_interval_s=3600)
    plans_dir, keys_file = files_of(gateway)
    (plans_dir / "old.yaml").unlink()
    await gateway.gateway.files.reload_if_changed()
    assert "old" in gateway.gateway.files.book.names

    digest = digest_of(gateway.key())
    keys_file.write_text(f"keys: [{{sha256: {digest}, workspace: w, plan: open}}]\n")
    await gateway.gateway.files.reload_if_changed()

    assert gateway.gateway.files.book.names == ("open",)


async def test_a_plan_and_its_keys_can_be_renamed_in_one_edit(
    start_gateway: StartGateway,
) -> None:
    """Neither file fits the other's old version, and both fit each other."""
    gateway = await start_gateway({"old": "plan: old\n"}, reload_interval_s=3600)
    plans_dir, keys_file = files_of(gateway)
    (plans_dir / "old.yaml").unlink()
    (plans_dir / "new.yaml").write_text("plan: new\n")
    digest = digest_of(gateway.key("old"))
    keys_file.write_text(f"keys: [{{sha256: {digest}, workspace: w, plan: new}}]\n")

    await gateway.gateway.files.reload_if_changed()

    assert gateway.gateway.files.book.names == ("new", "open")
    assert (await gateway.get("/v1/models", "old")).status_code == 200


async def test_a_file_that_is_gone_for_a_while_is_taken_when_it_is_back(
    start_gateway: StartGateway,
) -> None:
    """Until then the old one stays in force, and a metric says so."""
    gateway = await start_gateway(reload_interval_s=0.02)
    _, keys_file = files_of(gateway)
    text = keys_file.read_text()
    keys_file.unlink()
    keys_file.mkdir()
    await gateway.until_metric('llmtune_gateway_reload_refused{what="keys"} 1.0')
    keys_file.rmdir()
    keys_file.write_text(text.replace("ws-open", "ws-moved"))
    await gateway.until_metric('llmtune_gateway_reload_refused{what="keys"} 0.0')

    assert (await gateway.get("/v1/models")).status_code == 200


async def test_a_keys_own_models_narrow_its_plan(start_gateway: StartGateway) -> None:
    """A key for one model opens no other, listed or asked for."""
    gateway = await start_gateway(reload_interval_s=3600, models=("a/one", "b/two"))
    _, keys_file = files_of(gateway)
    record = f"sha256: {digest_of(gateway.key())}, workspace: w, plan: open"
    keys_file.write_text(f"keys: [{{{record}, models: ['a/*']}}]\n")
    await gateway.gateway.files.reload_if_changed()

    listed = (await gateway.get("/v1/models")).json()["data"]

    assert [model["id"] for model in listed] == ["a/one"]
    assert (await gateway.chat(model="a/one")).status_code == 200
    assert (await gateway.chat(model="b/two")).status_code == 404


FLEETS = [
    pytest.param("{url: 'http://127.0.0.1:9'}", "api_key_env", id="no key"),
    pytest.param(
        "{url: 'http://127.0.0.1:9', api_key_env: NO_KEY}", "NO_KEY", id="unset"
    ),
]


@pytest.mark.parametrize(("fleet", "named"), FLEETS)
def test_a_private_fleet_without_its_own_key_stops_the_start(
    tmp_path: Path, fleet: str, named: str
) -> None:
    """Otherwise somebody else's key would go to it."""
    (tmp_path / "fleet.yaml").write_text(f"plan: fleet\nupstream: {fleet}\n")
    settings = Settings(plans_dir=tmp_path, upstream_api_key=Secret("sk_live_shared"))

    with pytest.raises(FileProblems, match=named):
        Gateway(settings)
