"""Which requests are run once for all who ask, and under which key."""

from __future__ import annotations

import msgspec
import pytest

from gateway.auth import Principal
from gateway.errors import InvalidRequest
from gateway.replay.asking import Terms, terms_of
from gateway.replay.fingerprint import Asked
from gateway.secret import Secret
from policies.plans import Idempotency, Plan, PrivateFleet, ResponseCache

ASKED = Asked(b"f" * 32, is_deterministic=True)
OTHER = Asked(b"g" * 32, is_deterministic=True)
PLAIN = Plan(plan="p")
JOINS = Plan(plan="p", idempotency=Idempotency(join_retries_s=7))
CACHED = Plan(plan="p", cache=ResponseCache(ttl_s=3))
FLEET = PrivateFleet(url="https://acme.fleet")


def principal(plan: Plan, key_id: str = "k1", workspace: str = "acme") -> Principal:
    return Principal(
        workspace=workspace,
        plan=plan,
        key_id=key_id,
        models=None,
        api_key=Secret("the key itself"),
        is_own_key=False,
    )


def terms(plan: Plan, asked: Asked = ASKED, **headers: str) -> Terms:
    sent = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
    found = terms_of(sent, principal(plan), asked)
    assert found is not None
    return found


@pytest.mark.parametrize("plan", [PLAIN, JOINS, CACHED])
def test_a_key_is_what_counts_where_there_is_one(plan: Plan) -> None:
    found = terms(plan, idempotency_key='"order"')

    assert (found.key.scope, found.key.key) == ("key", "order")
    assert not found.is_fresh
    assert found.keeps_delivered


def test_a_key_that_is_none_is_an_error() -> None:
    with pytest.raises(InvalidRequest):
        terms(PLAIN, idempotency_key="")


@pytest.mark.parametrize("control", [b"", b"no-cache", b"no-store"])
def test_without_a_key_nothing_is_kept_unless_the_plan_says_so(control: bytes) -> None:
    headers = {b"cache-control": control, b"x-stainless-retry-count": b"1"}
    assert terms_of(headers, principal(PLAIN), ASKED) is None


@pytest.mark.parametrize(
    ("count", "is_fresh"), [("", True), ("0", True), ("1", False), ("2", False)]
)
def test_a_retry_says_that_it_is_one(count: str, is_fresh: bool) -> None:
    found = terms(JOINS, x_stainless_retry_count=count)

    assert found.is_fresh == is_fresh
    assert (found.run_on_s, found.bounds.ttl_ms) == (7, 7000)
    assert not found.keeps_delivered


def test_a_retry_is_of_one_api_key_and_a_cache_of_all() -> None:
    for plan, names in ((JOINS, 2), (CACHED, 1)):
        found = {
            terms_of({}, principal(plan, key_id), ASKED) for key_id in ("k1", "k2")
        }
        assert len({each.key for each in found if each}) == names


@pytest.mark.parametrize("plan", [JOINS, CACHED])
def test_another_request_fleet_or_workspace_has_another_name(plan: Plan) -> None:
    elsewhere = msgspec.structs.replace(plan, upstream=FLEET)
    found = [
        terms_of({}, principal(plan), ASKED),
        terms_of({}, principal(plan), OTHER),
        terms_of({}, principal(elsewhere), ASKED),
        terms_of({}, principal(plan, workspace="other"), ASKED),
    ]
    assert len({each.key for each in found if each}) == 4


def test_only_what_is_meant_to_be_the_same_is_cached() -> None:
    free = Asked(b"f" * 32, is_deterministic=False)
    assert terms_of({}, principal(CACHED), free) is None
    assert terms(CACHED).bounds.ttl_ms == 3000
    assert terms(CACHED, cache_control="max-age=0, No-Cache").is_fresh
