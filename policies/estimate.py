"""
How many tokens a request will cost, guessed before it runs.

Pure and fast: no tokenizer is loaded, because the model's own is unknown and the guess
is replaced by the truth at settlement. It leans high, so that a plan is overrun by
nothing and the difference flows back as a refund.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from policies.ledger import Usage
from policies.plans import Plan

# OpenAI's rule of thumb for English is 4 characters a token ("What are tokens and how
# to count them", help.openai.com). At 8 code and numbers would be reserved at half
# their cost; at 2 every English prompt would hold twice what it needs.
ASCII_CHARS_PER_TOKEN: Final = 4
ASCII_TWELFTHS: Final = 12 // ASCII_CHARS_PER_TOKEN
# A CJK character is 3 bytes and about one token, Cyrillic 2 bytes and about half of
# one. At 6 such prompts would be reserved at half their cost, at 1.5 at double.
NON_ASCII_BYTES_PER_TOKEN: Final = 3

# Role and separators around a message, and the opening of the answer, as the OpenAI
# Cookbook counts them ("How to count tokens with tiktoken": tokens_per_message, reply
# priming). They matter only for chats of very many very short messages.
TOKENS_PER_MESSAGE: Final = 3
TOKENS_PER_REPLY: Final = 3
# A 1024 x 1024 picture in high detail is 4 tiles of 170 on a base of 85 (OpenAI's
# vision guide). Half would be right for thumbnails, double for posters.
TOKENS_PER_IMAGE: Final = 765
# One minute at 10 tokens a second (OpenAI's audio guide); clips are rarely longer.
TOKENS_PER_AUDIO: Final = 600
# About three pages of text; longer documents are corrected at settlement.
TOKENS_PER_FILE: Final = 2000

# LLMTune's documented default for maxTokens: what an upstream would stop at anyway.
PRIOR_OUTPUT_TOKENS: Final = 1024
# A workspace uses a handful of models, so this is thousands of workspaces in about
# 3 MB. At half, a busy replica forgets workspaces that come back within minutes.
MAX_LEARNED_PAIRS: Final = 10_000
# Below 5 answers their largest says little about the next; above 20 the running maximum
# is no longer a 95th percentile but a 99th.
_FEWEST_TO_TRUST: Final = 5
_WARM_UP: Final = 20
# One answer above the estimate raises it by about 5 %, one below lowers it by 0.25 %.
# Double follows a changed workload twice as fast and jitters twice as far; half the
# opposite. A doubled workload is learned in 15 answers, a halved one in 280.
_GAIN: Final = 0.05


def estimate_text_tokens(text: str) -> int:
    """ASCII characters / 4 + the other characters' UTF-8 bytes / 3, rounded up."""
    return -(-text_twelfths(text) // 12)


def text_twelfths(text: str) -> int:
    """The same in twelfths of a token, unrounded, so that pieces can be summed."""
    if text.isascii():
        return len(text) * ASCII_TWELFTHS
    ascii_chars = len(text.encode("ascii", "ignore"))
    # A lone surrogate, which JSON can carry, must not make the estimate fail.
    other_bytes = len(text.encode("utf-8", "surrogatepass")) - ascii_chars
    twelfths = ascii_chars * ASCII_TWELFTHS
    return twelfths + other_bytes * (12 // NON_ASCII_BYTES_PER_TOKEN)


def estimate_input_tokens(
    text_tokens: int,
    *,
    messages: int = 1,
    images: int = 0,
    audios: int = 0,
    files: int = 0,
) -> int:
    """The tokens of a whole prompt: its texts, its messages' frames and its parts."""
    return (
        text_tokens
        + messages * TOKENS_PER_MESSAGE
        + TOKENS_PER_REPLY
        + images * TOKENS_PER_IMAGE
        + audios * TOKENS_PER_AUDIO
        + files * TOKENS_PER_FILE
    )


def estimate_usage(input_tokens: int, output_tokens: int, *, choices: int = 1) -> Usage:
    """What to reserve for one request that asks for this many choices."""
    return Usage(requests=1, tokens=input_tokens + output_tokens * choices)


def split_total(
    total: int, input_estimate: int, output_estimate: int
) -> tuple[int, int]:
    """
    Input and output tokens of an upstream that reports only their sum.

    In the proportion of the estimates, adding up exactly. Some input is always there.
    """
    if total <= 0:
        return 0, 0
    input_weight, output_weight = max(0, input_estimate), max(0, output_estimate)
    weights = input_weight + output_weight
    if weights == 0:
        return total, 0
    input_tokens = (2 * total * input_weight + weights) // (2 * weights)
    input_tokens = min(total, max(1, input_tokens))
    return input_tokens, total - input_tokens


class OutputEstimator:
    """
    What a workspace's answers from a model usually cost: a running high quantile.

    The first answers are judged by their maximum, later ones by DUMIQE, the
    deterministic multiplicative estimate of Yazidi and Hammer ("Multiplicative Update
    Methods for Incremental Quantile Estimation", IEEE Trans. Cybernetics 49(3), 2019):
    one number a pair, O(1) an answer, and it follows a workload that changes.
    """

    def __init__(
        self, *, quantile: float = 0.95, max_pairs: int = MAX_LEARNED_PAIRS
    ) -> None:
        self._raise_by = 1 + _GAIN * quantile
        self._lower_by = 1 - _GAIN * (1 - quantile)
        self._max_pairs = max_pairs
        self._learned: OrderedDict[tuple[str, str], _Learned] = OrderedDict()

    def __len__(self) -> int:
        return len(self._learned)

    def expect(self, workspace: str, model: str, plan: Plan) -> int:
        """The output tokens to reserve where the caller set no bound of its own."""
        learned = self._learned.get((workspace, model))
        if learned is None:
            expected = PRIOR_OUTPUT_TOKENS
        else:
            self._learned.move_to_end((workspace, model))
            expected = max(1, -int(-learned.estimate // 1))
        allowed = plan.request.max_output_tokens
        return expected if allowed is None else min(expected, allowed)

    def learn(self, workspace: str, model: str, output_tokens: int) -> None:
        """Take note of one complete answer; a cut one would teach too little."""
        pair = (workspace, model)
        learned = self._learned.get(pair)
        if learned is None:
            learned = self._learned[pair] = _Learned()
            if len(self._learned) > self._max_pairs:
                self._learned.popitem(last=False)
        else:
            self._learned.move_to_end(pair)
        self._update(learned, output_tokens)

    def _update(self, learned: _Learned, output_tokens: int) -> None:
        learned.answers += 1
        if learned.answers <= _WARM_UP:
            learned.largest = max(learned.largest, output_tokens)
            is_trusted = learned.answers >= _FEWEST_TO_TRUST
            prior = 0 if is_trusted else PRIOR_OUTPUT_TOKENS
            learned.estimate = float(max(prior, learned.largest))
        elif output_tokens > learned.estimate:
            # Multiplying cannot leave 0, so the climb starts at one token.
            learned.estimate = max(1.0, learned.estimate) * self._raise_by
        else:
            learned.estimate *= self._lower_by


class _Learned:
    __slots__ = ("answers", "estimate", "largest")

    def __init__(self) -> None:
        self.answers = 0
        self.largest = 0
        self.estimate = float(PRIOR_OUTPUT_TOKENS)
