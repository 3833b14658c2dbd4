"""Request bodies: valid ones, and what can be done to them. Seeded, so repeatable."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any, Final, TypeAlias

from tests.gateway_under_test import MODEL

Path: TypeAlias = tuple[str | int, ...]

FUNCTION: Final = {"name": "f", "description": "d", "parameters": {"type": "object"}}
CALL: Final = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
}
RICH_CHAT: Final[dict[str, Any]] = {
    "model": MODEL,
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Kind."}], "name": "s"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "4", "tool_call_id": "call_1"},
        {"role": "function", "content": "4", "name": "f"},
    ],
    "temperature": 0.5,
    "top_p": 0.9,
    "n": 1,
    "stop": ["a", "b"],
    "max_tokens": 16,
    "max_completion_tokens": 16,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "top_logprobs": 2,
    "seed": 7,
    "stream": False,
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True},
    },
    "reasoning_effort": "low",
    "metadata": {"a": "b"},
    "user": "someone",
    "top_k": 5,
    "min_p": 0.1,
}
BODIES: Final[dict[str, list[dict[str, Any]]]] = {
    "/v1/chat/completions": [
        RICH_CHAT,
        {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]},
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 5,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ],
    "/v1/completions": [
        {
            "model": MODEL,
            "prompt": "Say hi",
            "max_tokens": 5,
            "echo": True,
            "stream": False,
            "stop": "x",
            "logprobs": None,
            "best_of": 1,
            "suffix": None,
            "n": 1,
        },
        {"model": MODEL, "prompt": ["Say hi"], "stream": True, "max_tokens": 4},
    ],
    f"/v1/models/{MODEL}/inference": [
        {
            "prompt": "Hi",
            "maxTokens": 5,
            "temperature": 0.5,
            "topK": 4,
            "stream": False,
        },
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 5,
            "stream": True,
            "metadata": {"a": 1},
        },
    ],
    "/v1/playground/inference": [
        {"modelId": MODEL, "prompt": "Hi", "maxTokens": 5, "temperature": 0.5}
    ],
}

DEEP: Final[Any] = json.loads("[" * 60 + "]" * 60)
JUNK: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    1e308,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\x00",
    "\u00e9\U0001f642\u202e",
    "../../x",
    "x" * 9000,
    [],
    [None],
    {},
    {"": None},
    {"role": "user", "content": "x"},
    DEEP,
)


def paths_in(value: Any, at: Path = ()) -> Iterator[Path]:
    """The place of every value in a JSON value, the outermost first."""
    yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths_in(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths_in(inner, (*at, index))


def replaced(body: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(body)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


def removed(body: Any, path: Path) -> Any:
    changed = copy.deepcopy(body)
    place = changed
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return changed


def swapped_everywhere() -> Iterator[tuple[str, bytes]]:
    """Every field of every valid body, replaced by every kind of junk, and left out."""
    for route, bodies in BODIES.items():
        for body in bodies:
            for path in paths_in(body):
                for junk in JUNK:
                    yield route, json.dumps(replaced(body, path, junk)).encode()
                if path:
                    yield route, json.dumps(removed(body, path)).encode()


def mutated(random: Random) -> tuple[str, bytes]:
    """A valid body with some random damage, in its values or in its bytes."""
    route = random.choice(list(BODIES))
    body: Any = random.choice(BODIES[route])
    for _ in range(random.randint(0, 3)):
        body = _damaged(body, random)
    raw = json.dumps(body, ensure_ascii=random.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )
    if random.random() < 0.5:
        raw = _damaged_bytes(raw, random)
    return route, raw


def _damaged(body: Any, random: Random) -> Any:
    path = random.choice(list(paths_in(body)))
    match random.randrange(5):
        case 0:
            return replaced(body, path, random.choice(JUNK))
        case 1 if path:
            return removed(body, path)
        case 2:
            return replaced(body, path, [body])
        case 3 if isinstance(body, dict):
            name = random.choice(["x", "", "\x00", "\ud800", "model", "k" * 3000])
            return {**body, name: random.choice(JUNK)}
        case _:
            inner: Any = 1
            for _ in range(random.choice([10, 60, 120])):
                inner = [inner]
            return replaced(body, path, inner)


def _damaged_bytes(raw: bytes, random: Random) -> bytes:
    place = random.randrange(len(raw))
    match random.randrange(8):
        case 0:
            return raw[:place]
        case 1:
            return raw[:place] + random.randbytes(random.randint(1, 9)) + raw[place:]
        case 2:
            return raw[:place] + bytes([random.randrange(256)]) + raw[place + 1 :]
        case 3:  # a key twice
            return raw.replace(b"{", b'{"model":"a","model":"b",', 1)
        case 4:
            return raw + raw
        case 5:
            nesting = random.choice([100, 985, 1000, 100_000])
            return raw.replace(b"{", b'{"zz":' + b"[" * nesting + b"]" * nesting, 1)
        case 6:
            return b"\xef\xbb\xbf" + raw
        case _:
            digits = random.choice([20, 400, 5000])
            return raw.replace(b"{", b'{"zz":' + b"9" * digits + b",", 1)
