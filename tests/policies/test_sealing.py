"""Answers at rest: nothing to read without a key, and keys that rotate."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest

from policies.key_names import replay_digest, replay_keys
from policies.replay.packing import Packing
from policies.replay.port import (
    AnswerHead,
    Bounds,
    Conflict,
    First,
    Part,
    Reading,
    ReplayDamaged,
    ReplayKey,
    Stored,
)
from policies.replay.redis_replays import RedisReplays
from policies.replay.sealing import SealingKeysProblem, parse_sealing_keys
from policies.store.store import Store, open_store
from tests.policies.conftest import PATIENCE_S


def key_of(byte: int) -> str:
    return base64.b64encode(bytes((byte,)) * 32).decode()


OLD, NEW = f"2025:{key_of(1)}", f"2026:{key_of(2)}"
HEAD = AnswerHead(200, ((b"content-type", b"text/secret"),), "req_secret", False)
KEY = ReplayKey("acme", "key", "order", b"a digest of a prompt in 32 bytes")
BOUNDS = Bounds(60_000, 2**20, 2**26)


@pytest.fixture
def ledger_kind() -> str:
    return "redis"


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    store = open_store(store_url, timeout_s=PATIENCE_S, client_name="test")
    yield store
    await store.aclose()


def replays(store: Store, keys: str | None) -> RedisReplays:
    seal = None if keys is None else parse_sealing_keys(keys)
    return RedisReplays(store, lease_ms=6000, packing=Packing(seal))


async def test_nothing_readable_lies_in_redis(store: Store) -> None:
    """Of the answer, its head, or the prompt's digest, which could be guessed at."""
    sealed = replays(store, NEW)
    await sealed.claim(KEY, "a")
    await sealed.append(KEY, "a", Part(0, b"the secret answer", HEAD), BOUNDS)
    await sealed.keep(KEY, "a", Part(17, b", in secret" * 1000), BOUNDS)

    everything = b""
    for name in await store.call("KEYS", "*", key="x"):
        kind = await store.call("TYPE", name, key="x")
        read = {
            b"hash": ("HGETALL", name),
            b"stream": ("XRANGE", name, "-", "+"),
            b"zset": ("ZRANGE", name, "0", "-1"),
        }[kind if isinstance(kind, bytes) else kind.encode()]
        everything += repr(await store.call(*read, key="x")).encode()

    assert b"2026" in everything
    for secret in (b"secret", b"a digest of a prompt"):
        assert secret not in everything
    reading = await sealed.read(KEY, "a", 0)
    assert reading.head == HEAD
    assert reading.data == b"the secret answer" + b", in secret" * 1000


async def test_keys_rotate_while_answers_live(store: Store) -> None:
    """The new one is put first; the old one stays until what it sealed is gone."""
    await replays(store, OLD).claim(KEY, "a")
    await replays(store, OLD).keep(KEY, "a", Part(0, b"Hello", HEAD), BOUNDS)

    rotated = replays(store, f"{NEW},{OLD}")
    assert await rotated.claim(KEY, "b") == Stored("a")
    assert await rotated.read(KEY, "a", 0) == Reading("complete", HEAD, b"Hello")

    for other in (replays(store, NEW), replays(store, None)):
        # Nobody can say whether it is the same: that is no 422.
        with pytest.raises(ReplayDamaged):
            await other.claim(KEY, "b")
        with pytest.raises(ReplayDamaged):
            await other.read(KEY, "a", 0)


async def test_a_key_may_come_and_go(store: Store) -> None:
    """What was kept in the clear stays readable; what was sealed does not."""
    await replays(store, None).claim(KEY, "a")
    await replays(store, None).keep(KEY, "a", Part(0, b"Hello", HEAD), BOUNDS)
    sealed = replays(store, NEW)
    assert await sealed.claim(KEY, "b") == Stored("a")
    assert (await sealed.read(KEY, "a", 0)).data == b"Hello"
    another = ReplayKey("acme", "key", "order", b"another digest of a prompt")
    assert await sealed.claim(another, "b") == Conflict()

    other = ReplayKey("acme", "key", "other", KEY.fingerprint)
    assert await sealed.claim(other, "a") == First()
    await sealed.keep(other, "a", Part(0, b"Hello", HEAD), BOUNDS)
    with pytest.raises(ReplayDamaged):
        await replays(store, None).read(other, "a", 0)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(
            ReplayKey("evil", "key", "order", KEY.fingerprint), id="workspace"
        ),
        pytest.param(ReplayKey("acme", "key", "other", KEY.fingerprint), id="key"),
    ],
)
async def test_an_answer_does_not_open_elsewhere(
    store: Store, other: ReplayKey
) -> None:
    """Whoever can write to Redis cannot have one tenant's answer read by another."""
    sealed = replays(store, NEW)
    for key in (KEY, other):
        await sealed.claim(key, "a")
        await sealed.keep(key, "a", Part(0, b"Hello", HEAD), BOUNDS)
    one, another = (
        replay_keys(each.workspace, "key", replay_digest("key", each.key))
        for each in (KEY, other)
    )
    (_, (_, piece)), *_ = await store.call("XRANGE", one[1], "-", "+", key="x")
    await store.call("DEL", another[1], key="x")
    await store.call("XADD", another[1], "5-1", "p", piece, key="x")

    with pytest.raises(ReplayDamaged):
        await sealed.read(other, "a", 0)


@pytest.mark.parametrize(
    ("recording", "place"),
    [
        pytest.param("other", b"5", id="in another recording"),
        pytest.param("a", b"10", id="at another place"),
    ],
)
def test_a_piece_opens_only_where_it_belongs(recording: str, place: bytes) -> None:
    packing = Packing(parse_sealing_keys(NEW))
    packed = packing.pack(b"Hello", "a", b"5")

    assert packing.unpack(packed, "a", b"5") == b"Hello"
    with pytest.raises(ValueError, match="changed"):
        packing.unpack(packed, recording, place)


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_changed_piece_does_not_open(at: int) -> None:
    packing = Packing(parse_sealing_keys(NEW))
    packed = bytearray(packing.pack(b"Hello, this is the answer.", "a", b"26"))
    packed[at] ^= 0x10

    with pytest.raises(ValueError, match="piece"):
        packing.unpack(bytes(packed), "a", b"26")


def test_equal_pieces_look_different() -> None:
    packing = Packing(parse_sealing_keys(NEW))
    assert len({packing.pack(b"Hello", "a", b"5") for _ in range(10)}) == 10


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(key_of(1), id="no id"),
        pytest.param("a:short", id="short"),
        pytest.param(f"a:{key_of(1)}{key_of(1)}", id="long"),
        pytest.param(f"a b:{key_of(1)}", id="a space in the id"),
        pytest.param(f"a:{key_of(1)},a:{key_of(2)}", id="an id twice"),
        pytest.param(f"a:{key_of(1)},", id="a comma too many"),
        pytest.param(",".join(f"{n}:{key_of(n)}" for n in range(9)), id="too many"),
    ],
)
def test_what_are_no_keys_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(SealingKeysProblem) as refused:
        parse_sealing_keys(text)
    assert key_of(1) not in str(refused.value)


def test_keys_are_taken_in_either_alphabet_of_base64() -> None:
    raw = bytes([251, 239, 190, 255] * 8)
    spellings = (base64.b64encode(raw), base64.urlsafe_b64encode(raw).rstrip(b"="))
    one, other = (parse_sealing_keys(f"a:{each.decode()}") for each in spellings)

    assert other.open(one.close(b"x", "r", b"1"), "r", b"1") == b"x"
