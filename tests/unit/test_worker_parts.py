"""The parts of a supervisor that need no process: frames, channels, slots, sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.addresses import Address
from gateway.app import Gateway
from gateway.binding import bind_tcp
from gateway.settings import Settings
from gateway.workers.channel import Channel
from gateway.workers.crew import Slot, Worker
from gateway.workers.listeners import Listeners
from gateway.workers.messages import (
    MOST_BYTES,
    Ask,
    BrokenChannel,
    Counted,
    Frames,
    Leaving,
    Scrape,
    Serving,
    Totals,
    frame_of,
)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40)), st.lists(st.integers(1, 50)))
def test_frames_are_the_same_however_they_arrive(
    sizes: list[int], steps: list[int]
) -> None:
    sent = [Counted(size, msgspec.Raw(b"\xc4\x02ab")) for size in sizes]
    stream = b"".join(map(frame_of, sent))
    frames = Frames()
    found: list[bytes] = []
    for step in [*steps, len(stream) + 1]:
        found += frames.feed(stream[:step])
        stream = stream[step:]

    decode = msgspec.msgpack.Decoder(Counted).decode
    assert [m.round for m in sent] == [decode(each).round for each in found]


def test_a_frame_has_a_bound_at_both_ends() -> None:
    long = msgspec.Raw(b"\xc6" + MOST_BYTES.to_bytes(4, "big") + b"x" * MOST_BYTES)

    with pytest.raises(BrokenChannel):
        frame_of(Counted(1, long))
    with pytest.raises(BrokenChannel):
        list(Frames().feed((MOST_BYTES + 1).to_bytes(4, "big")))


@pytest.fixture
def channel() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    with theirs:
        yield channel, theirs
    channel.close()


def test_a_channel_never_waits_for_its_reader(
    channel: tuple[Channel, socket.socket],
) -> None:
    ours, theirs = channel
    big = Totals(1, msgspec.Raw(msgspec.msgpack.encode("x" * 4_000_000)))
    ours.send(big)
    ours.send(Ask(2))
    assert ours.unsent_bytes > 0

    frames: list[bytes] = []
    cutter = Frames()
    while len(frames) < 2:
        received = theirs.recv(2**20)
        frames += cutter.feed(received)
        ours.flush()

    assert msgspec.msgpack.decode(frames[1], type=Ask) == Ask(2)


def test_a_channel_tells_its_end_after_its_last_words(
    channel: tuple[Channel, socket.socket],
) -> None:
    ours, theirs = channel
    theirs.sendall(frame_of(Serving()) + frame_of(Scrape(3)))
    assert ([Serving(), Scrape(3)], True) == ours.receive()

    theirs.sendall(frame_of(Leaving()) + b"\0")
    theirs.close()

    assert ([Leaving()], False) == ours.receive()
    ours.send(Ask(1))
    assert ours.unsent_bytes == 0


def test_what_is_no_message_ends_a_channel(
    channel: tuple[Channel, socket.socket],
) -> None:
    ours, theirs = channel
    theirs.sendall(b"\0\0\0\1\xc1")

    assert ([], False) == ours.receive()


def deaths(slot: Slot, *lived_s: float, serves: bool = True) -> list[float]:
    """How long the slot pauses after workers that lived so long."""
    now_s, pauses = 100.0, []
    ours, theirs = socket.socketpair()
    theirs.close()
    channel = Channel(ours)
    for each in lived_s:
        worker = Worker(1, slot, channel, started_s=now_s)
        slot.taken(worker)
        if serves:
            slot.serves(worker)
        now_s += each
        slot.lost(worker, now_s)
        assert slot.due_s is not None
        pauses.append(slot.due_s - now_s)
    channel.close()
    return pauses


def test_the_first_successor_comes_at_once_and_later_ones_wait() -> None:
    assert [0, 0.5, 1, 2, 5, 5] == deaths(Slot(0), *[1] * 6)


def test_who_lived_long_is_replaced_at_once() -> None:
    assert [0, 0.5, 0, 0.5] == deaths(Slot(0), 1, 1, 60, 1)


def test_false_starts_are_counted_until_one_serves() -> None:
    slot = Slot(0)

    deaths(slot, 1, 1, serves=False)
    assert slot.false_starts == 2
    deaths(slot, 1)
    assert slot.false_starts == 0


def test_making_a_gateway_starts_no_thread() -> None:
    """A supervisor makes one to check the start, and forks: no thread survives that."""
    before = threading.active_count()
    gateway = Gateway(Settings(store_url="redis://127.0.0.1:1"))

    assert before == threading.active_count()
    assert "standalone" == gateway.shared.status()["kind"]


def test_slots_share_one_port_that_nobody_had() -> None:
    listeners = Listeners(Address(port=0), None, slots=3)
    socks = [sock for slot in range(3) for sock in listeners.of(slot).api]

    assert {listeners.address.port} == {sock.getsockname()[1] for sock in socks}
    assert len({sock.fileno() for sock in socks}) == 3
    listeners.close()


def test_an_address_that_is_taken_is_not_shared() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="address already in use"):
            Listeners(Address(port=port), None, slots=2)
        with pytest.raises(OSError, match="address already in use"):
            Listeners(Address(port=0), Address(port=port), slots=2)


def test_a_host_of_two_families_has_one_port() -> None:
    try:
        socks = bind_tcp("", 0, is_shared=True)
    except OSError:
        pytest.skip("no IPv6 here")
    assert len({sock.getsockname()[1] for sock in socks}) == 1
    for sock in socks:
        sock.close()
