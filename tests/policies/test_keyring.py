"""Keys files and the keys they let in."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from policies.keyring import (
    MAX_KEYS_FILE_BYTES,
    KeyProblems,
    KeyRecord,
    Keyring,
    digest_of,
    find_unknown_plans,
    has_checksum,
    load_keys_file,
    new_api_key,
)
from policies.ledger import KeyScope
from policies.plan_files import PlanBook
from policies.plans import Concurrency, KeyLimits, Plan

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DIGEST = hashlib.sha256(b"a key").hexdigest()
OTHER = hashlib.sha256(b"another key").hexdigest()
PASTED = "llmtune_gw_Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4MDEyMw"


def load(tmp_path: Path, content: str | bytes) -> Keyring:
    path = tmp_path / "keys.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_keys_file(path)


def test_key_is_found_by_its_digest(tmp_path: Path) -> None:
    keyring = load(
        tmp_path, f"keys: [{{sha256: {DIGEST}, workspace: acme, plan: growth}}]"
    )

    record = keyring.find("a key", NOON)

    assert record == KeyRecord(sha256=DIGEST, workspace="acme", plan="growth")
    assert record.key_id == DIGEST[:8]


def test_every_field_is_read(tmp_path: Path) -> None:
    keyring = load(
        tmp_path,
        f"""
        keys:
          - sha256: {DIGEST}
            workspace: acme.eu_1-x
            plan: growth
            name: CI of the search team
            models: [gpt-4o, "meta/*"]
            expires_at: 2027-01-31T01:00:00+01:00
        """,
    )

    (record,) = keyring.records

    assert record.name == "CI of the search team"
    assert record.models == ("gpt-4o", "meta/*")
    assert record.expires_at == datetime(2027, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    "api_key", ["", "A key", "a key ", DIGEST, "ключ", "\ud800"], ids=ascii
)
def test_key_nobody_handed_out_is_unknown(api_key: str) -> None:
    keyring = Keyring([KeyRecord(sha256=DIGEST, workspace="w", plan="p")])

    assert keyring.find(api_key, NOON) is None


def test_key_works_until_the_instant_it_expires() -> None:
    record = KeyRecord(sha256=DIGEST, workspace="w", plan="p", expires_at=NOON)
    keyring = Keyring([record])
    second = timedelta(seconds=1)
    elsewhere = timezone(timedelta(hours=5))

    assert keyring.find("a key", NOON - second) == record
    assert keyring.find("a key", NOON) is None
    assert keyring.find("a key", (NOON - second).astimezone(elsewhere)) == record


def test_expired_key_is_still_told_from_an_unknown_one() -> None:
    record = KeyRecord(sha256=DIGEST, workspace="w", plan="p", expires_at=NOON)
    keyring = Keyring([record])

    assert keyring.lookup("a key") == record
    assert keyring.lookup("another key") is None


def test_workspace_may_begin_as_some_keys_do(tmp_path: Path) -> None:
    keyring = load(
        tmp_path, f"keys: [{{sha256: {DIGEST}, workspace: sk-telecom, plan: p}}]"
    )

    assert keyring.records[0].workspace == "sk-telecom"


def test_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    assert len(load(tmp_path, "keys: []")) == 0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param("", "must not be empty", id="empty"),
        pytest.param("{}", "keys: is missing", id="no-keys"),
        pytest.param("keys: {}", "keys: must be a list", id="mapping"),
        pytest.param("keys: []\nkey: 1", "key: is not a field", id="unknown-field"),
        pytest.param(f"keys: [{PASTED}]", "keys[0]: must be a mapping", id="bare-key"),
        pytest.param(
            f"keys: [{{sha256: {PASTED}, workspace: w, plan: p}}]",
            "keys[0].sha256: must be the key's SHA-256 digest",
            id="key-for-digest",
        ),
        pytest.param(
            f"keys: [{{sha256: {DIGEST}, workspace: {PASTED}, plan: p}}]",
            "keys[0].workspace: looks like an API key",
            id="key-for-workspace",
        ),
        pytest.param(
            f"keys: [{{sha256: {DIGEST}, workspace: w, plan: p, name: {PASTED}}}]",
            "keys[0].name: looks like an API key",
            id="key-for-name",
        ),
        pytest.param(
            f"keys: [{{sha256: {DIGEST}, workspace: w, plan: p, name: {'n' * 101}}}]",
            "keys[0].name: must be one line of at most 100 characters",
            id="name-length",
        ),
        pytest.param(
            f"keys: [{{{PASTED}: 1, sha256: {DIGEST}, workspace: w, plan: p}}]",
            "keys[0].?: is not a field",
            id="key-for-field",
        ),
        pytest.param(
            f"keys: [{{sha256: {DIGEST[:-1]}g, workspace: w, plan: p}}]",
            "keys[0].sha256: must be the key's SHA-256 digest",
            id="not-hex",
        ),
        pytest.param(
            f"keys: [{{sha256: {'1' * 64}, workspace: w, plan: p}}]",
            "keys[0].sha256: must be text; quote it",
            id="digest-as-number",
        ),
        pytest.param(
            "keys: [{workspace: w, plan: p}]",
            "keys[0].sha256: is missing",
            id="digest-missing",
        ),
        pytest.param(
            f"keys: [{{sha256: {DIGEST}, workspace: a/b, plan: p}}]",
            "keys[0].workspace: must be 1 to 64 of the characters",
            id="workspace-charset",
        ),
        pytest.param(
            f"keys: [{{sha256: {DIGEST}, workspace: {'w' * 65}, plan: p}}]",
            "keys[0].workspace: must be 1 to 64",
            id="workspace-length",
        ),
        pytest.param(
            f"keys: [{{sha256: {DIGEST}, workspace: w}}]",
            "keys[0].plan: is missing",
            id="plan-missing",
        ),
        pytest.param(
            f"keys: [{{sha256: {DIGEST}, workspace: w, plan: p, models: ['?']}}]",
            "keys[0].models[0]: must be a model id",
            id="model-pattern",
        ),
        pytest.param(
            f"keys: [{{sha256: {DIGEST}, workspace: w, plan: p, "
            "expires_at: 2027-01-31T00:00:00}]",
            "keys[0].expires_at: must be a time with its zone",
            id="no-zone",
        ),
        pytest.param(
            f"keys: [{{sha256: {DIGEST}, workspace: w, plan: p, expires_at: 1}}]",
            "keys[0].expires_at: must be a time with its zone",
            id="expiry-as-number",
        ),
        pytest.param(b"keys: [\xff]", "must be UTF-8 text", id="latin-1"),
        pytest.param(
            b" " * (MAX_KEYS_FILE_BYTES + 1),
            "must have at most 4194304 bytes",
            id="huge",
        ),
    ],
)
def test_mistake_is_refused_without_quoting_it(
    content: str | bytes, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(KeyProblems) as refusal:
        load(tmp_path, content)

    assert str(refusal.value).startswith(f"keys.yaml: {problem}")
    assert PASTED not in repr(refusal.value)


def test_two_records_of_one_key_are_refused(tmp_path: Path) -> None:
    lines = [
        f"  - {{sha256: {digest}, workspace: w, plan: p}}"
        for digest in (DIGEST, OTHER, DIGEST)
    ]

    with pytest.raises(KeyProblems) as refusal:
        load(tmp_path, "\n".join(["keys:", *lines]))

    assert str(refusal.value) == "keys.yaml: keys[2].sha256: is the same key as keys[0]"


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyProblems, match="cannot be read: No such file"):
        load_keys_file(tmp_path / "keys.yaml")


def test_plan_that_is_not_in_the_book_is_told_with_its_place(tmp_path: Path) -> None:
    keyring = load(
        tmp_path,
        f"keys: [{{sha256: {DIGEST}, workspace: w, plan: small}},"
        f" {{sha256: {OTHER}, workspace: w, plan: smal}}]",
    )
    book = PlanBook([Plan(plan="small"), Plan(plan="large")])

    (problem,) = find_unknown_plans(keyring, book)

    assert (
        str(problem) == "keys.yaml: keys[1].plan: is not a plan; there are large, small"
    )


def test_new_keys_are_marked_and_never_the_same() -> None:
    keys = {new_api_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(key.startswith("llmtune_gw_") and len(key) == 60 for key in keys)


def test_new_key_ends_with_its_checksum() -> None:
    api_key = new_api_key()
    slips = [
        api_key[:at] + ("B" if api_key[at] == "A" else "A") + api_key[at + 1 :]
        for at in range(len(api_key))
    ]

    assert has_checksum(api_key)
    assert not any(map(has_checksum, [*slips, api_key[:-1], f"{api_key}0", ""]))
    assert not has_checksum("llmtune_gw_" + "A" * 43 + "000000")


def test_key_with_limits_counts_where_its_digest_says() -> None:
    limits = KeyLimits(concurrency=Concurrency(limit=1))
    record = KeyRecord(sha256=DIGEST, workspace="w", plan="p", limits=limits)
    empty = KeyRecord(sha256=DIGEST, workspace="w", plan="p", limits=KeyLimits())

    assert KeyScope(DIGEST[:16], limits) == record.key_scope
    assert empty.key_scope is None


def test_digest_is_plain_sha256() -> None:
    assert digest_of("a key") == DIGEST
