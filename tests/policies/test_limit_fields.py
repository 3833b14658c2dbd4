"""The limits of single keys in a keys file, and the mistakes in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from policies.keyring import KeyProblems, KeyRecord, load_keys_file
from policies.plans import Concurrency, KeyLimits, Quota, Rate

DIGEST = hashlib.sha256(b"a key").hexdigest()


def load(tmp_path: Path, limits: str) -> KeyRecord:
    path = tmp_path / "keys.yaml"
    record = f"{{sha256: {DIGEST}, workspace: w, plan: p, limits: {limits}}}"
    path.write_text(f"keys: [{record}]")
    (read,) = load_keys_file(path).records
    return read


def test_key_may_have_limits_of_every_kind(tmp_path: Path) -> None:
    record = load(
        tmp_path,
        "{concurrency: {limit: 2, shadow: true},"
        " rates: [{of: tokens, limit: 900, per: minute, burst: 100}],"
        " quotas: [{of: tokens, limit: 9000, per: month}]}",
    )

    assert record.limits == KeyLimits(
        concurrency=Concurrency(limit=2, shadow=True),
        rates=(Rate(of="tokens", limit=900, per="minute", burst=100),),
        quotas=(Quota(of="tokens", limit=9000, per="month"),),
    )


def test_keys_concurrency_has_its_short_form_too(tmp_path: Path) -> None:
    record = load(tmp_path, "{concurrency: 2}")

    assert record.limits == KeyLimits(concurrency=Concurrency(limit=2))


@pytest.mark.parametrize("limits", ["{}", "null"])
def test_key_without_limits_has_no_scope(limits: str, tmp_path: Path) -> None:
    assert load(tmp_path, limits).key_scope is None


def test_scope_is_counted_under_the_keys_own_digest(tmp_path: Path) -> None:
    scope = load(tmp_path, "{concurrency: 1}").key_scope

    assert scope is not None
    assert (scope.id, scope.limits.concurrency) == (DIGEST[:16], Concurrency(limit=1))


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        pytest.param("5", "limits: must be a mapping of fields", id="number"),
        pytest.param("[]", "limits: must be a mapping of fields", id="list"),
        pytest.param(
            "{rate: []}",
            "limits.rate: is not a field; did you mean rates?",
            id="unknown-field",
        ),
        pytest.param(
            "{models: [m]}",
            "limits.models: is not a field; there are concurrency, rates, quotas",
            id="plans-field",
        ),
        pytest.param("{rates: 60}", "limits.rates: must be a list", id="no-list"),
        pytest.param(
            "{rates: [60]}", "limits.rates[0]: must be a mapping", id="bare-rate"
        ),
        pytest.param(
            "{rates: [{of: words, limit: 1, per: minute}]}",
            "limits.rates[0].of: must be one of requests, tokens",
            id="unit",
        ),
        pytest.param(
            "{rates: [{of: tokens, limit: 1, per: month}]}",
            "limits.rates[0].per: must be one of day, hour, minute, second",
            id="period",
        ),
        pytest.param(
            "{rates: [{of: tokens, limit: 0, per: minute}]}",
            "limits.rates[0].limit: must be a whole number from 1 to",
            id="zero",
        ),
        pytest.param(
            "{rates: [{of: tokens, per: minute}]}",
            "limits.rates[0].limit: is missing",
            id="no-limit",
        ),
        pytest.param(
            "{rates: [{of: tokens, limit: 1, per: day, burst: 400}]}",
            "limits.rates[0].burst: would take 400 days to refill",
            id="burst-of-years",
        ),
        pytest.param(
            "{rates: [{of: tokens, limit: 1, per: day},"
            " {of: tokens, limit: 2, per: day}]}",
            "limits.rates[1]: limits the same as keys[0].limits.rates[0]",
            id="rate-twice",
        ),
        pytest.param(
            "{quotas: [{of: tokens, limit: 1, per: day},"
            " {of: tokens, limit: 2, per: day}]}",
            "limits.quotas[1]: limits the same as keys[0].limits.quotas[0]",
            id="quota-twice",
        ),
        pytest.param(
            "{quotas: [{of: tokens, limit: 1, per: minute}]}",
            "limits.quotas[0].per: must be one of day, hour, month",
            id="window",
        ),
        pytest.param(
            "{concurrency: many}",
            "limits.concurrency: must be a whole number, or a mapping such as",
            id="concurrency-as-text",
        ),
        pytest.param(
            "{concurrency: true}",
            "limits.concurrency: must be a whole number, or a mapping such as",
            id="concurrency-as-bool",
        ),
        pytest.param(
            "{concurrency: -1}",
            "limits.concurrency.limit: must be a whole number from 0 to",
            id="concurrency-negative",
        ),
    ],
)
def test_mistake_in_a_keys_limits_is_told_with_its_place(
    limits: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(KeyProblems) as refusal:
        load(tmp_path, limits)

    assert str(refusal.value).startswith(f"keys.yaml: keys[0].{problem}")
    assert len(refusal.value.problems) == 1
