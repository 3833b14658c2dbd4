"""The access line that is encoded directly, and the record for everybody else."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access_log import AccessLog, logger
from gateway.exchange import Exchange
from gateway.json_lines import JsonFormatter, JsonLines
from gateway.record import Record
from tests.patient_wire import PatientWire

NOW_MS = 1_767_323_045_007


class Kept(logging.Handler):
    """Somebody else's handler."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Ended(Exchange):
    """An exchange that took as long as a test says."""

    def __init__(self, record: Record | None = None, took_s: float = 0.0123456) -> None:
        wire = PatientWire()
        wire.headers[b"x-request-id"] = b"req_1"
        super().__init__(wire, write_timeout_s=1)
        self.record = record or self.record
        self._took_s = took_s

    @property
    def elapsed_s(self) -> float:
        return self._took_s


class Sink:
    """A handler of ours with what it has written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.handler = JsonLines(self.stream)

    def written(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@contextmanager
def only_sink(*others: logging.Handler) -> Iterator[Sink]:
    """
    The access logger with one handler of ours, and nobody else's but those given.

    No fixture: before a test's body, pytest puts handlers of its own on such a logger.
    """
    sink = Sink()
    logger.handlers, logger.propagate = [sink.handler, *others], False
    logger.setLevel(logging.INFO)
    try:
        yield sink
    finally:
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)


def line_of(exchange: Exchange, *others: logging.Handler) -> str:
    """Its access line, with others listening or without."""
    with only_sink(*others) as sink:
        AccessLog(now_ns=lambda: NOW_MS * 1_000_000).write(exchange, "POST")
    return sink.stream.getvalue()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
RECORDS = st.builds(
    Record,
    route=st.sampled_from(["_other", "/v1/models"]),
    status=st.sampled_from([0, 200, 429]),
    outcome=st.sampled_from(["failed", "ok"]),
    param=st.none() | TEXT,
    model=st.none() | TEXT,
    is_stream=st.booleans(),
    is_usage_reported=st.none() | st.booleans(),
    input_tokens=st.none() | st.integers(0, 2**53),
    first_token_s=st.none() | st.floats(0, 1e5),
    error_id=st.none() | TEXT,
)


@settings(deadline=None)  # a loaded machine is no reason to fail
@given(RECORDS, st.floats(0, 1e5))
def test_both_ways_write_the_same_line(record: Record, took_s: float) -> None:
    """The same members in the same order with the same values; the second is slower."""
    others = Kept()
    direct = line_of(Ended(record, took_s))
    through_logging = line_of(Ended(record, took_s), others)
    [seen] = others.records
    seen.created = NOW_MS / 1000

    assert direct == JsonFormatter().format(seen) + "\n"
    # Whose time is the moment at which it was logged.
    timeless = [msgspec.json.decode(line) for line in (direct, through_logging)]
    for line in timeless:
        del line["time"]
    assert list(timeless[0].items()) == list(timeless[1].items())


def test_a_line_names_every_member_but_what_is_unknown() -> None:
    """What equals a default is said; what is None is not."""
    line: dict[str, Any] = msgspec.json.decode(line_of(Ended()))

    assert line == {
        "time": "2026-01-02T03:04:05.007+00:00",
        "level": "info",
        "logger": "gateway.access",
        "message": "request",
        "request_id": "req_1",
        "method": "POST",
        "duration_ms": 12.35,
        "route": "_other",
        "status": 0,
        "outcome": "failed",
        "is_stream": False,
    }


def test_the_time_goes_on() -> None:
    """It is written out once a second, and never an old one; also if it is set back."""
    after_ns = (0, 999_999, 10**6, 60 * 10**9, 0)
    moments = iter([NOW_MS * 10**6 + each for each in after_ns])
    log = AccessLog(now_ns=lambda: next(moments))
    with only_sink() as sink:
        for _ in after_ns:
            log.write(Ended(), "GET")

    times = [msgspec.json.decode(line)["time"] for line in sink.written()]
    expected = [
        datetime.fromtimestamp(NOW_MS // 1000 + each // 10**9, UTC).isoformat()
        for each in after_ns
    ]
    assert [time[:19] for time in times] == [each[:19] for each in expected]
    ends = ["007+00:00", "007+00:00", "008+00:00", "007+00:00", "007+00:00"]
    assert [time[-9:] for time in times] == ends


def test_what_may_not_be_logged_is_not() -> None:
    """The levels decide, the handler's as much as the logger's."""
    for of in ("logger", "handler"):
        with only_sink() as sink:
            (logger if of == "logger" else sink.handler).setLevel(logging.WARNING)
            AccessLog().write(Ended(), "GET")
        assert sink.written() == []


def test_whoever_listens_gets_records() -> None:
    """An embedding application's handler, on the logger or above it."""
    on_logger, on_root = Kept(), Kept()
    with only_sink(on_logger) as sink:
        AccessLog().write(Ended(), "GET")
    root = logging.getLogger()
    with only_sink() as above:
        root.addHandler(on_root)
        logger.propagate = True
        AccessLog().write(Ended(), "GET")
        root.removeHandler(on_root)

    seen = [record.getMessage() for record in on_logger.records + on_root.records]
    assert seen == ["request", "request"]
    assert len(sink.written()) == len(above.written()) == 1


@pytest.mark.parametrize("of", ["logger", "handler"])
def test_filters_are_asked(of: str) -> None:
    """They exist to keep lines out."""
    asked: list[logging.LogRecord] = []

    def refuse(record: logging.LogRecord) -> bool:
        asked.append(record)
        return False

    with only_sink() as sink:
        filtered = logger if of == "logger" else sink.handler
        filtered.addFilter(refuse)
        AccessLog().write(Ended(), "GET")
        filtered.removeFilter(refuse)

    assert (len(asked), sink.written()) == (1, [])


def test_another_formatter_is_used() -> None:
    """Who sets one wants its form."""
    with only_sink() as sink:
        sink.handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        AccessLog().write(Ended(), "GET")

    assert sink.written() == ["gateway.access: request"]


def test_half_a_surrogate_pair_fails_no_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """JSON can carry one, UTF-8 cannot: its line is lost, and that is said."""
    with only_sink() as sink:
        AccessLog().write(Ended(Record(model="\ud800")), "POST")
        AccessLog().write(Ended(), "POST")

    assert len(sink.written()) == 1
    assert "UnicodeEncodeError" in capsys.readouterr().err


def test_of_answered_requests_a_share_is_written() -> None:
    """With that share, so that lines can be counted; whatever failed is all there."""
    draws = iter([0.24, 0.25, 0.9])
    log = AccessLog(success_ratio=0.25, draw=lambda: next(draws))
    with only_sink() as sink:
        for _ in range(3):
            log.write(Ended(Record(outcome="ok")), "POST")
        log.write(Ended(Record(outcome="rejected")), "POST")

    lines = [msgspec.json.decode(line) for line in sink.written()]
    assert [line["outcome"] for line in lines] == ["ok", "rejected"]
    assert [line.get("sample_ratio") for line in lines] == [0.25, None]
