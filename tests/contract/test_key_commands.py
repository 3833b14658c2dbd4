"""`keys create`, `list`, `rotate` and `revoke` as people meet them."""

from __future__ import annotations

import json
import re
import uuid
from datetime import timedelta
from typing import Any, TypeAlias

import msgspec
import pytest

from gateway.cli import main
from gateway.key_options import duration
from policies.key_names import KEY_RECORDS
from policies.keyring import digest_of, has_checksum
from tests.contract.test_command_line import run
from tests.policies.keys_in_redis import stored_key
from tests.redis_servers import RedisServer

Told: TypeAlias = tuple[int, str, str]


class Operator:
    """Types `keys` commands, within a process that is already there."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def keys(self, *arguments: str) -> Told:
        """Exit code, output and errors."""
        self._capture.readouterr()
        try:
            code = main(["keys", *arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *self._capture.readouterr())

    def json(self, *arguments: str) -> Any:
        code, output, errors = self.keys(*arguments, "--json")
        assert code == 0, errors
        return json.loads(output)


@pytest.fixture
def operator(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    redis_server: RedisServer,
) -> Operator:
    monkeypatch.setenv("GATEWAY_STORE_URL", redis_server.url)
    return Operator(capsys)


@pytest.fixture
def workspace() -> str:
    """A workspace of the test's own in the shared Redis."""
    return f"ws-{uuid.uuid4().hex}"


def put(server: RedisServer, of: str, **fields: Any) -> None:
    """Keep a record as it is, past every check."""
    key = msgspec.structs.replace(stored_key(of), **fields)
    server.command("HSET", KEY_RECORDS, key.sha256, msgspec.json.encode(key))


def test_a_key_lives_from_create_to_revoke(
    redis_server: RedisServer, workspace: str
) -> None:
    """The whole round with the real program, a process each."""
    store = {"GATEWAY_STORE_URL": redis_server.url}
    where = ("--workspace", workspace)

    def listed() -> list[str]:
        code, output, errors = run("keys", "list", *where, **store)
        assert (0, "") == (code, errors)
        return output.splitlines()[1:]

    code, output, errors = run("keys", "create", *where, "--plan", "growth", **store)
    api_key = output.strip()
    key_id = digest_of(api_key)[:8]
    assert (0, True) == (code, has_checksum(api_key))
    assert key_id in errors
    assert [True] == ["active" in line and key_id in line for line in listed()]

    code, output, errors = run("keys", "rotate", key_id, "--overlap", "2h", **store)
    new_id = digest_of(output.strip())[:8]
    assert (0, True) == (code, f"{new_id} replaces {key_id}" in errors)
    assert 1 == sum("rotating until" in line and key_id in line for line in listed())

    assert 0 == run("keys", "revoke", key_id, **store)[0]
    assert [True] == [new_id in line for line in listed()]


def test_create_prints_the_key_once_and_keeps_its_digest(
    operator: Operator, redis_server: RedisServer, workspace: str
) -> None:
    """Standard output is the key alone, so that a script can take it."""
    code, output, errors = operator.keys(
        "create", "--workspace", workspace, "--plan", "growth"
    )

    api_key = output.removesuffix("\n")
    kept = str(redis_server.command("HGETALL", KEY_RECORDS))
    assert code == 0
    assert has_checksum(api_key)
    assert digest_of(api_key) in kept
    assert api_key[11:] not in kept + errors
    assert api_key[11:] not in operator.keys("list")[1]


def test_everything_a_key_may_be_given_is_kept(
    operator: Operator, workspace: str
) -> None:
    """And is listed as it was asked for."""
    made = operator.json(
        *("create", "--workspace", workspace, "--plan", "growth", "--name", "CI"),
        *("--models", "gpt-4o, meta/*", "--ttl", "90d", "--concurrency", "5"),
        *("--rate", "requests:60/minute,burst=120", "--quota", "tokens:9/month,shadow"),
    )

    (listed,) = operator.json("list", "--workspace", workspace)
    table = operator.keys("list", "--workspace", workspace)[1]
    assert {"key": made["key"], **listed} == made
    assert digest_of(made["key"])[:8] == made["key_id"]
    assert ["gpt-4o", "meta/*"] == made["models"]
    assert "requests:60/minute,burst=120 tokens:9/month,shadow concurrency:5" in table
    assert "  CI  " in table


def test_rotate_keeps_what_the_key_had(operator: Operator, workspace: str) -> None:
    """The scope too, in which its own limits count."""
    options = ("--workspace", workspace, "--plan", "growth", "--rate", "tokens:5/hour")
    old = operator.json("create", *options)

    new = operator.json("rotate", old["key_id"])

    same = ("workspace", "plan", "limits", "scope")
    assert [old[name] for name in same] == [new[name] for name in same]
    assert old["key_id"] == new["rotated_from"]
    again = operator.keys("rotate", old["key_id"])
    assert (1, "") == again[:2]
    assert f"{new['key_id']} replaces it" in again[2]


def test_an_id_that_names_several_keys_lists_them(
    operator: Operator, redis_server: RedisServer, workspace: str
) -> None:
    """Nothing is revoked by guess; more digits or the workspace decide."""
    start = uuid.uuid4().hex[:8]
    digests = [start + digit * 56 for digit in "01"]
    for digest, of in zip(digests, (workspace, "elsewhere"), strict=True):
        put(redis_server, digest, sha256=digest, workspace=of, name=f"of {of}")

    code, output, errors = operator.keys("revoke", start)

    assert (1, "") == (code, output)
    for digest, of in zip(digests, (workspace, "elsewhere"), strict=True):
        assert f"{digest[:16]}  {of}  of {of}" in errors
    assert digests[0][:16] in operator.keys("list")[1]
    assert 0 == operator.keys("revoke", start, "--workspace", workspace)[0]
    assert 0 == operator.keys("revoke", start)[0]


def test_states_are_told_apart(
    operator: Operator, redis_server: RedisServer, workspace: str
) -> None:
    """Also what this version cannot read is listed, and can be revoked."""
    put(redis_server, f"{workspace} 1", workspace=workspace)
    over = stored_key("").created_at - timedelta(days=1)
    put(redis_server, f"{workspace} 2", workspace=workspace, expires_at=over)
    broken = uuid.uuid4().hex * 2
    redis_server.command("HSET", KEY_RECORDS, broken, "{}")

    states = {key["state"] for key in operator.json("list", "--workspace", workspace)}
    listed = operator.keys("list")[1]

    assert {"active", "expired"} == states
    assert re.search(rf"{broken[:8]} .* unreadable", listed)
    assert broken in {key["sha256"] for key in operator.json("list")}
    assert 1 == operator.keys("rotate", broken)[0]
    assert 0 == operator.keys("revoke", broken)[0]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        pytest.param("--plan gold", "--plan: is not a plan; there are", id="plan"),
        pytest.param("--workspace a/b", "--workspace: must be", id="workspace"),
        pytest.param("--name llmtune_gw_x", "--name: looks like", id="key as name"),
        pytest.param("--models ?", "--models: must be a model id", id="models"),
        pytest.param("--rate req:6/minute", "--rate: of: must be one of", id="of"),
        pytest.param("--rate tokens:6/week", "--rate: per: must be one", id="per"),
        pytest.param("--rate tokens:0/day", "--rate: limit: must be", id="zero"),
        pytest.param("--rate 60", "such as requests:60/minute", id="no limit"),
        pytest.param(
            "--rate tokens:6/day --rate tokens:7/day", "limits the same", id="twice"
        ),
        pytest.param(
            "--quota tokens:6/day,burst=7", "--quota: burst: is not", id="burst"
        ),
        pytest.param("--concurrency -1", "--concurrency: limit: must", id="negative"),
        pytest.param("--expires-at 2027-01-31", "such as 2027-01-31T", id="no zone"),
        pytest.param("--expires-at 2020-01-01T00:00:00Z", "is over already", id="past"),
        pytest.param("--ttl 90", "such as 45s, 30m", id="no unit"),
        pytest.param("--ttl 0s", "is over already", id="at once"),
        pytest.param("--ttl 999999w", "such as 45s, 30m", id="for ever"),
        pytest.param(
            "--ttl 9d --expires-at 2099-01-01T00:00:00Z", "not allowed", id="both"
        ),
    ],
)
def test_a_wrong_option_is_named_and_no_key_is_made(
    operator: Operator, workspace: str, options: str, complaint: str
) -> None:
    """Exit 2, and the same checks as for a keys file."""
    own = ("--workspace", workspace, "--plan", "growth")

    code, output, errors = operator.keys("create", *own, *options.split())

    assert (2, "") == (code, output)
    assert complaint in errors
    assert [] == operator.json("list", "--workspace", workspace)


@pytest.mark.parametrize("action", ["revoke", "rotate"])
def test_a_key_in_place_of_its_id_is_not_repeated(
    operator: Operator, action: str
) -> None:
    """Error texts end up in logs; it is told how to get the id."""
    code, _, errors = operator.keys(action, "llmtune_gw_secret")

    assert code == 2
    assert "keys hash" in errors
    assert "secret" not in errors


@pytest.mark.parametrize(
    ("key_id", "code", "complaint"),
    [
        pytest.param("0" * 64, 1, "there is no key 0000", id="unknown"),
        pytest.param("abc", 2, "8 or more", id="too short"),
        pytest.param("not-hex-at-all", 2, "8 or more", id="no digits"),
    ],
)
def test_an_id_that_names_no_key_is_an_error(
    operator: Operator, key_id: str, code: int, complaint: str
) -> None:
    """Whoever revokes a key must not believe that it was done."""
    told = operator.keys("revoke", key_id)

    assert (code, "") == told[:2]
    assert complaint in told[2]


@pytest.mark.parametrize(
    ("url", "code", "complaint"),
    [
        pytest.param("memory://", 2, "nowhere to keep keys", id="memory"),
        pytest.param("", 2, "nowhere to keep keys", id="unset"),
        pytest.param("http://u:secret@h", 2, "redis+cluster://", id="no store"),
        pytest.param("redis://u:secret@127.0.0.1:1/0", 1, "connection", id="away"),
    ],
)
def test_without_a_store_there_is_one_line(
    operator: Operator,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    code: int,
    complaint: str,
) -> None:
    """No traceback, and no password in it."""
    monkeypatch.setenv("GATEWAY_STORE_URL", url)

    told = operator.keys("list")

    assert (code, "") == told[:2]
    assert complaint in told[2]
    assert 1 == len(told[2].splitlines())
    assert "secret" not in told[2]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("30m", 1800),
        ("24h", 86_400),
        ("90d", 7_776_000),
        ("2w", 1_209_600),
    ],
)
def test_a_time_has_a_number_and_a_unit(text: str, seconds: int) -> None:
    """The units that people use for keys."""
    assert timedelta(seconds=seconds) == duration(text)
