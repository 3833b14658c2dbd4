"""
What the scenarios share: the registry, clients for a plan, and the questions they ask.

The client is the stock one: base URL and key come from the environment, as they do in
an application that was never told about a gateway.
"""

# The client's own environment has openai; the one mypy runs in has not.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, TypeVar

from openai import AsyncOpenAI, DefaultHttpxClient, OpenAI

Scenario: TypeAlias = Callable[[], Any]
S = TypeVar("S", bound=Scenario)

MODEL: Final = "meta-llama/Llama-3.3-70B-Instruct"
HELLO: Final = [{"role": "user", "content": "Say hello in one sentence."}]

# A fault for the asking, as documented in docs/simulator.md.
STALLED: Final = "simulator/stall"
STALLED_STREAM: Final = "simulator/stall-stream"

BASE_URL: Final = os.environ["OPENAI_BASE_URL"]
# Another LLMTune behind another gateway: slow tokens, many keep-alive comments.
SLOW_URL: Final = os.environ["CLIENT_SLOW_URL"]
KEYS: Final[dict[str, str]] = json.loads(os.environ["CLIENT_KEYS"])

# So that a hang is one failed scenario and not a failed run.
TIMEOUT_S: Final = 10.0

SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(check: S) -> S:
    """Register a function; its name is the scenario's."""
    SCENARIOS[check.__name__] = check
    return check


def connect(plan: str = "open", **options: Any) -> OpenAI:
    """A client with this plan's key; it retries only where a scenario wants it to."""
    settings = {"api_key": KEYS[plan], "max_retries": 0, "timeout": TIMEOUT_S}
    return OpenAI(**(settings | options))


def connect_strict(plan: str = "open") -> OpenAI:
    """A client that validates every answer and chunk."""
    return connect(plan, _strict_response_validation=True)


def connect_async(plan: str = "open", **options: Any) -> AsyncOpenAI:
    settings = {"api_key": KEYS[plan], "max_retries": 0, "timeout": TIMEOUT_S}
    return AsyncOpenAI(**(settings | options))


def connect_counted(plan: str, **options: Any) -> tuple[OpenAI, list[Any]]:
    """A client with the SDK's own retries, and the responses it gets."""
    responses: list[Any] = []
    http_client = DefaultHttpxClient(event_hooks={"response": [responses.append]})
    return connect(plan, max_retries=2, http_client=http_client, **options), responses


def ask(client: OpenAI, **fields: Any) -> Any:
    """A chat completion of the usual question."""
    return client.chat.completions.create(
        **({"model": MODEL, "messages": HELLO} | fields)
    )


def same(expected: object, actual: object) -> None:
    if expected != actual:
        raise AssertionError(f"expected {expected!r}, got {actual!r}")


def check_usage(usage: Any) -> None:
    """Usage is there, and its parts sum to its total."""
    assert usage is not None
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
    same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)


def text_of(chunks: Iterable[Any], index: int = 0) -> str:
    """The content of one choice of a stream."""
    return "".join(
        choice.delta.content or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index
    )


def caught(
    kind: type[Exception], call: Callable[..., Any], *given: Any, **fields: Any
) -> Any:
    """The exception of exactly this class that the call raises."""
    try:
        got = call(*given, **fields)
    except Exception as error:
        if type(error) is not kind:
            raise
        return error
    raise AssertionError(f"no {kind.__name__}, but {got!r}"[:500])


def run_all() -> None:
    """Run everything that is registered; a failure is a line like any other."""
    only = set(sys.argv[1:])
    for name, check in SCENARIOS.items():
        if not only or name in only:
            line = {"name": name, **outcome_of(check)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


def outcome_of(check: Scenario) -> dict[str, Any]:
    try:
        if inspect.iscoroutinefunction(check):
            asyncio.run(check())
        else:
            check()
    except Exception:  # noqa: BLE001 - whatever went wrong is the outcome
        return {"ok": False, "detail": traceback.format_exc()[-3000:]}
    return {"ok": True, "detail": ""}
