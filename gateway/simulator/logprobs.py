"""Log probabilities of tokens: made up, repeatable, falling from first to last."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from gateway.simulator.replies import encode_json
from gateway.simulator.streams import Delta


def token_logprob(token: str, rank: int = 0) -> dict[str, object]:
    raw = token.encode()
    # crc32 rather than hash(): the latter differs from process to process.
    logprob = -(zlib.crc32(raw) % 50) / 100 - rank
    return {"token": token, "logprob": logprob, "bytes": list(raw)}


def token_entry(token: str, top: int) -> dict[str, object]:
    # The alternatives to a token differ from it only in their last letter.
    others = [token + chr(ord("a") + rank) for rank in range(top - 1)]
    ranked = [token, *others] if top else []
    entries = [token_logprob(one, rank) for rank, one in enumerate(ranked)]
    return {**token_logprob(token), "top_logprobs": entries}


def logprobs_of(pieces: Sequence[str], top: int) -> dict[str, object]:
    return {"content": [token_entry(piece, top) for piece in pieces], "refusal": None}


def logprob_deltas(pieces: Sequence[str], top: int) -> Iterator[Delta]:
    for piece in pieces:
        yield Delta(
            b'{"content":' + encode_json(piece) + b"}",
            encode_json(logprobs_of([piece], top)),
        )
