"""Server-sent events: the same events wherever the bytes are split."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.sse import PING, EventDecoder, ServerSentEvent

ROOMY = 1024 * 1024

# Everything that means something to the parser, and little else.
ALPHABET = [b"data", b"event", b"id", b"retry", b":", b" ", b"x", b"\n", b"\r", b"\r\n"]
soup = st.lists(st.sampled_from([*ALPHABET, b"\xef\xbb\xbf", b"\xc3\xa9"]), max_size=40)
cuts = st.lists(st.integers(0, 200), max_size=8)


def decode(*chunks: bytes, max_event_bytes: int = ROOMY) -> list[ServerSentEvent]:
    decoder = EventDecoder(max_event_bytes=max_event_bytes)
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return [*events, *decoder.finish()]


def outcome(
    *chunks: bytes, max_event_bytes: int
) -> list[ServerSentEvent] | type[UpstreamError]:
    try:
        return decode(*chunks, max_event_bytes=max_event_bytes)
    except UpstreamError:
        return UpstreamError


def split_at(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in pairwise(ends)]


def data_of(*chunks: bytes) -> list[bytes]:
    return [event.data for event in decode(*chunks)]


GOLDEN = (
    b"\xef\xbb\xbfdata: one\n\n: hello\r\n\r\nevent: tool\rdata: two\rdata: more\r\r"
    b"data: line\r\ndata: line\r\n\r\nid: 7\nretry: 3000\ndata:three\n\n: ping\n\n"
    b'data: {"a": "\xc3\xa9"}\n\ndata: last'
)
GOLDEN_EVENTS = [
    ServerSentEvent(b"", b"one"),
    ServerSentEvent(b"tool", b"two\nmore"),
    ServerSentEvent(b"", b"line\nline"),
    ServerSentEvent(b"", b"three"),
    ServerSentEvent(b"", b'{"a": "\xc3\xa9"}'),
    ServerSentEvent(b"", b"last"),
]


@pytest.mark.parametrize("place", range(len(GOLDEN) + 1))
def test_stream_split_at_every_byte_gives_the_same_events(place: int) -> None:
    assert GOLDEN_EVENTS == decode(GOLDEN[:place], GOLDEN[place:])


def test_stream_in_single_bytes_gives_the_same_events() -> None:
    assert GOLDEN_EVENTS == decode(*(bytes([byte]) for byte in GOLDEN))


@given(soup, cuts)
def test_any_stream_split_anywhere_gives_the_same_events(
    pieces: list[bytes], places: list[int]
) -> None:
    stream = b"".join(pieces)

    assert decode(stream) == decode(*split_at(stream, places))


@given(soup)
def test_any_stream_in_single_bytes_gives_the_same_events(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)

    assert decode(stream) == decode(*(bytes([byte]) for byte in stream))


@given(st.binary(max_size=60), cuts)
def test_any_bytes_split_anywhere_give_the_same_events(
    stream: bytes, places: list[int]
) -> None:
    assert decode(stream) == decode(*split_at(stream, places))


# Chunks as upstreams write them, and some that only begin or end like them.
whole = st.sampled_from(
    [b"data: a\n\n", b"data: \n\n", b"data: a\n\ndata: b: c\n\n", b"data:  a\n\n"]
)
almost = st.sampled_from(
    [
        *(b"data: a\n\n\ndata: b\n\n", b"data: a\ndata: b\n\n", b"data: a\n"),
        *(b"data:a\n\n", b"data: a\r\n\r\n", b"data: a\r\rdata: b\n\n", b"data: a\r"),
        *(b"event: x\ndata: a\n\n", b"event: x\n", b": ping\n\n", b"\n", b"data: "),
        *(b"data: a\n\n: b\n\n", b"data: a\n\nevent: x\n\n", b"\xef\xbb\xbf", b""),
    ]
)


@given(st.lists(whole | almost, max_size=8), st.integers(7, 24))
def test_whole_events_give_the_same_events_as_their_bytes(
    chunks: list[bytes], limit: int
) -> None:
    bytewise = (bytes([byte]) for byte in b"".join(chunks))

    expected = outcome(*bytewise, max_event_bytes=limit)

    assert expected == outcome(*chunks, max_event_bytes=limit)


@given(soup, cuts, st.integers(4, 24))
def test_size_limit_is_the_same_at_every_split(
    pieces: list[bytes], places: list[int], limit: int
) -> None:
    stream = b"".join(pieces)

    whole = outcome(stream, max_event_bytes=limit)

    assert whole == outcome(*split_at(stream, places), max_event_bytes=limit)


@given(
    st.lists(
        st.text(
            min_size=1, alphabet=st.characters(codec="utf-8", exclude_characters="\r\n")
        )
    ),
    st.sampled_from([b"\n", b"\r", b"\r\n"]),
)
def test_written_events_are_read_back(texts: list[str], newline: bytes) -> None:
    payloads = [text.encode() for text in texts]
    stream = b"".join(b"data: " + data + newline + newline for data in payloads)

    assert payloads == data_of(stream)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(b"data: a\n\ndata: b\n\n", [b"a", b"b"], id="lf"),
        pytest.param(b"data: a\r\rdata: b\r\r", [b"a", b"b"], id="cr"),
        pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"], id="crlf"),
        pytest.param(b"data:a\n\n", [b"a"], id="no-space"),
        pytest.param(b"data:  a\n\n", [b" a"], id="only-one-space-is-dropped"),
        pytest.param(b"data: a: b\n\n", [b"a: b"], id="colon-in-the-value"),
        pytest.param(b"data: a\ndata: b\n\n", [b"a\nb"], id="several-data-lines"),
        pytest.param(b"data\n\n", [b""], id="data-without-colon"),
        pytest.param(b"data:\n\n", [b""], id="empty-data"),
        pytest.param(b": a\n\n:\n\n", [], id="comments"),
        pytest.param(b": a\ndata: b\n: c\n\n", [b"b"], id="comment-beside-data"),
        pytest.param(b"id: 1\nretry: 5\n\n", [], id="id-and-retry-alone"),
        pytest.param(b"Data: a\n\n", [], id="names-are-case-sensitive"),
        pytest.param(b"event: ping\n\ndata: a\n\n", [b"a"], id="event-without-data"),
        pytest.param(b"data: a", [b"a"], id="end-without-newline"),
        pytest.param(b"data: a\n", [b"a"], id="end-without-blank-line"),
        pytest.param(b"data: a\r", [b"a"], id="end-after-cr"),
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\n\n\n", [], id="blank-lines"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", [b"a"], id="byte-order-mark"),
        pytest.param(b"data: \xef\xbb\xbf\n\n", [b"\xef\xbb\xbf"], id="inner-bom"),
        pytest.param(b"\xef\xbb\n\ndata: a\n\n", [b"a"], id="half-a-bom"),
    ],
)
def test_stream_gives_the_data_of_its_events(
    stream: bytes, expected: list[bytes]
) -> None:
    assert expected == data_of(stream)


def test_event_name_belongs_to_its_event_only() -> None:
    events = decode(b"event: error\ndata: a\n\ndata: b\n\n")

    assert [b"error", b""] == [event.name for event in events]


def test_event_name_of_a_dataless_event_is_forgotten() -> None:
    events = decode(b"event: ping\n\ndata: a\n\n")

    assert [ServerSentEvent(b"", b"a")] == events


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([b"data: " + b"x" * 200 + b"\n\n"], id="one-chunk"),
        pytest.param([b"data: ", *[b"x" * 50] * 4], id="a-line-without-end"),
        pytest.param([b"data: " + b"x" * 50 + b"\n"] * 4, id="many-lines"),
        pytest.param([b"x" * 200], id="no-field-at-all"),
        pytest.param([b": " + b"x" * 200 + b"\n\n"], id="a-comment"),
    ],
)
def test_oversized_event_is_refused(chunks: list[bytes]) -> None:
    with pytest.raises(UpstreamError, match="larger than 100 bytes"):
        decode(*chunks, max_event_bytes=100)


def test_event_as_large_as_the_limit_passes() -> None:
    data = b"x" * (100 - len(b"data: "))

    events = decode(b"data: " + data, b"\n\n", max_event_bytes=100)

    assert [ServerSentEvent(b"", data)] == events


def test_small_event_beside_the_start_of_another_is_no_large_one() -> None:
    stream = b"data: " + b"x" * 60 + b"\n\ndata: " + b"y" * 60

    assert 2 == len(decode(stream, max_event_bytes=100))


def test_many_events_together_may_exceed_the_limit_of_one() -> None:
    assert 50 == len(decode(b"data: 12345678\n\n" * 50, max_event_bytes=20))


def test_finish_twice_gives_the_last_event_once() -> None:
    decoder = EventDecoder(max_event_bytes=ROOMY)
    list(decoder.feed(b"data: a"))

    assert [[b"a"], []] == [
        [event.data for event in decoder.finish()] for _ in range(2)
    ]


def test_ping_is_no_event() -> None:
    assert [] == decode(PING)
