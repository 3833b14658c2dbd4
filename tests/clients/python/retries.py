"""Requests that are sent again: by the program under a key, or by the client."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from typing import Any

from tests.clients.python.scenario import (
    HELLO,
    MODEL,
    SLOW_URL,
    connect,
    connect_counted,
    same,
    scenario,
    text_of,
)

# Below what the slow LLMTune takes for an answer, above what the gateway does.
TOO_SHORT_S = 0.1


def under(key: str) -> dict[str, str]:
    """The header that the clients have no parameter for."""
    return {"idempotency-key": key}


@scenario
def key_replayed() -> None:
    raw = connect().chat.completions.with_raw_response
    responses = [
        raw.create(model=MODEL, messages=HELLO, extra_headers=under("order-1"))
        for _ in range(2)
    ]

    same([None, "true"], [r.headers.get("idempotent-replayed") for r in responses])
    first, again = (response.parse() for response in responses)
    same(first.id, again.id)
    same(first.choices, again.choices)


@scenario
def key_stream_cut() -> None:
    def begin() -> Any:
        return connect(base_url=SLOW_URL).chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, extra_headers=under("order-2")
        )

    with begin() as cut:
        seen = [next(cut), next(cut)]
    chunks = list(begin())

    same(seen, chunks[:2])
    assert len(text_of(chunks)) > len(text_of(seen))
    same("stop", chunks[-1].choices[0].finish_reason)


@scenario
def retry_joined() -> None:
    client, responses = connect_counted("joins", base_url=SLOW_URL, timeout=TOO_SHORT_S)

    answer = client.chat.completions.create(model=MODEL, messages=HELLO)

    assert answer.choices[0].message.content
    same("true", responses[-1].headers["idempotent-replayed"])
