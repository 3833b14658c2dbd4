"""
The same answers under `_strict_response_validation`, the clients' own conformance test.

What breaks the published types raises APIResponseValidationError in the scenario.
"""

from __future__ import annotations

from tests.clients.python.scenario import MODEL, ask, connect_strict, same, scenario
from tests.clients.python.tools import CLOCK, WEATHER


@scenario
def strict_models() -> None:
    client = connect_strict()

    assert client.models.list().data
    same(MODEL, client.models.retrieve(MODEL).id)


@scenario
def strict_chat() -> None:
    client = connect_strict()

    assert ask(client).choices
    assert ask(client, max_tokens=2).choices
    assert ask(client, n=2, logprobs=True, top_logprobs=1).choices


@scenario
def strict_stream() -> None:
    client = connect_strict()
    options = {"include_usage": True}

    assert list(ask(client, stream=True))
    assert list(ask(client, stream=True, stream_options=options))
    assert list(ask(client, stream=True, n=2, logprobs=True, stream_options=options))


@scenario
def strict_tools() -> None:
    client = connect_strict()
    fields = {"tools": [WEATHER, CLOCK], "parallel_tool_calls": True}

    assert ask(client, **fields).choices[0].message.tool_calls
    assert list(ask(client, stream=True, **fields))


@scenario
def strict_completion() -> None:
    client = connect_strict()

    # Whole only: the published type has no null for the finish reason of a chunk that
    # is not the last, so OpenAI's own streams fail strict validation here.
    assert client.completions.create(model=MODEL, prompt="Say").choices
    assert client.completions.create(model=MODEL, prompt="Say", n=2).choices
