"""What can be read from response headers, and given in request headers."""

from __future__ import annotations

import re

from tests.clients.python.scenario import HELLO, MODEL, ask, connect, same, scenario

DURATION = re.compile(r"(\d+h)?(\d+m)?\d+(\.\d+)?m?s")


@scenario
def raw_response_headers() -> None:
    client = connect("metered")

    for fields in ({}, {"stream": True}):
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=HELLO, **fields
        )

        assert raw.headers["x-request-id"].startswith("req_")
        same(raw.headers["x-request-id"], raw.request_id)
        for unit, limit in (("requests", 6000), ("tokens", 9_000_000)):
            same(str(limit), raw.headers[f"x-ratelimit-limit-{unit}"])
            assert int(raw.headers[f"x-ratelimit-remaining-{unit}"]) < limit
            assert DURATION.fullmatch(raw.headers[f"x-ratelimit-reset-{unit}"])
        assert list(raw.parse())


@scenario
def request_id_of_caller() -> None:
    mine = {"X-Request-Id": "trace-42", "X-Client-Request-Id": "client-42"}

    answer = ask(connect(), extra_headers=mine)

    same("trace-42", answer._request_id)
