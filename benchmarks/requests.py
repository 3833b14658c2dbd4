"""What the load asks for, and how an answer of each kind is recognised."""

from __future__ import annotations

import http.client
import json
from typing import Final, NamedTuple

MODEL: Final = "gpt-4o"
ROUTE: Final = "/v1/chat/completions"

_PROMPT: Final = "Say in a few words what an edge proxy is for."
_PROBE_WITHIN_S: Final = 20.0
# Of prose, as a document in a prompt would be: about six bytes a word, all ASCII.
_FILLER: Final = "limits are decided before a call and settled after it, to the token. "


class Target(NamedTuple):
    """Where a gateway listens and what it wants to see on a request."""

    port: int
    # Complete header lines beyond host, content type and length, in turn: the load
    # rotates through them, one a request.
    header_sets: tuple[tuple[str, ...], ...] = ((),)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{ROUTE}"


class ProbeFailed(Exception):
    """A gateway answered the first request with something else than the answer."""


def whole_body(prompt_bytes: int = 0) -> bytes:
    """A small chat completion, or one whose prompt is about so large."""
    prompt = _PROMPT
    if prompt_bytes:
        prompt = (_FILLER * (prompt_bytes // len(_FILLER) + 1))[:prompt_bytes]
    return _body(prompt, {})


def stream_body(events: int) -> bytes:
    """A streamed completion; its prompt tells the upstream how many events it has."""
    return _body(f"events={events} {_PROMPT}", {"stream": True})


def _body(prompt: str, more: dict[str, object]) -> bytes:
    messages = [{"role": "user", "content": prompt}]
    return json.dumps(
        {"model": MODEL, "messages": messages, "max_tokens": 64, **more}
    ).encode()


def raw_request(target: Target, body: bytes, turn: int = 0) -> bytes:
    """The bytes of one request, for the load tools that write sockets themselves."""
    headers = target.header_sets[turn % len(target.header_sets)]
    lines = [
        f"POST {ROUTE} HTTP/1.1",
        f"Host: 127.0.0.1:{target.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def ask(target: Target, body: bytes) -> tuple[int, bytes]:
    """One request with the first headers: status and body."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", target.port, timeout=_PROBE_WITHIN_S
    )
    pairs = (line.split(": ", 1) for line in target.header_sets[0])
    headers = {"Content-Type": "application/json", **dict(pairs)}
    try:
        connection.request("POST", ROUTE, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as problem:
        raise ProbeFailed(f"no answer: {problem!r}") from None
    finally:
        connection.close()


def probe_whole(target: Target) -> None:
    """The answer must be the upstream's, in OpenAI's form."""
    status, content = ask(target, whole_body())
    if status != 200:
        raise ProbeFailed(f"status {status}: {content[:200]!r}")
    answer = json.loads(content)
    text = answer["choices"][0]["message"]["content"]
    total = answer["usage"]["total_tokens"]
    if text != ANSWER_TEXT or total != ANSWER_TOKENS:
        raise ProbeFailed(f"another answer than the upstream's: {content[:200]!r}")


def probe_stream(target: Target) -> None:
    """A short stream must arrive whole: every event's text, and its end."""
    events = 3
    status, content = ask(target, stream_body(events))
    if status != 200:
        raise ProbeFailed(f"status {status}: {content[:200]!r}")
    if b"[DONE]" not in content or content.count(b'"t0') != events:
        raise ProbeFailed(f"not the stream that was sent: {content[:300]!r}")


ANSWER_TEXT: Final = "It keeps every caller to a plan, at the edge."
ANSWER_TOKENS: Final = 21
ANSWER_USAGE: Final = {
    "prompt_tokens": 10,
    "completion_tokens": 11,
    "total_tokens": ANSWER_TOKENS,
}


def inference_answer() -> str:
    """LLMTune's whole answer, as the gateway is asked to translate it."""
    return json.dumps(
        {
            "text": ANSWER_TEXT,
            "tokens": ANSWER_TOKENS,
            "usage": ANSWER_USAGE,
            "model": MODEL,
        }
    )


def chat_answer() -> str:
    """The same answer as OpenAI's, for the peers."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": ANSWER_TEXT},
        "finish_reason": "stop",
    }
    return json.dumps(
        {
            "id": "chatcmpl-benchmark",
            "object": "chat.completion",
            "created": 1700000000,
            "model": MODEL,
            "choices": [choice],
            "usage": ANSWER_USAGE,
        }
    )
