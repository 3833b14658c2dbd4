"""
The simulator's knobs, their ranges and their defaults.

How they are spelled on the command line is `cli`'s business.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal, TypeAlias, get_type_hints

import msgspec
from msgspec import Meta

from gateway.simulator.faults import FaultKind

Generation: TypeAlias = Literal[1, 2, 3]
StreamForm: TypeAlias = Literal["chunks", "text", "token", "delta", "json"]
RequiredInput: TypeAlias = Literal["prompt", "messages", "either"]
ErrorShape: TypeAlias = Literal["seed", "docs"]
BatchWebhook: TypeAlias = Literal["batch", "item"]

# A day: long enough for any soak test, short enough that a slip of the finger ends.
MAX_WAIT_MS: Final = 86_400_000
Milliseconds: TypeAlias = Annotated[float, Meta(ge=0, le=MAX_WAIT_MS)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
# Below 4 no sentence fits; above, one answer would occupy the process for seconds.
AnswerLength: TypeAlias = Annotated[int, Meta(ge=4, le=32_768)]

DEFAULT_MODELS: Final = (
    "llmtune-mini",
    "llmtune-pro",
    "meta-llama/Llama-3.3-70B-Instruct",
    "meta-llama/Llama-3.1-8B-Instruct",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "Qwen/Qwen2.5-72B-Instruct",
    "deepseek-ai/DeepSeek-V3",
)


class SettingsError(ValueError):
    """A knob has a value that is not allowed."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class SimulatorSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """What kind of LLMTune to be; every default makes a quick, well-behaved one."""

    ttft_ms: Milliseconds = 0
    # 0 writes as fast as the client reads.
    tokens_per_second: Annotated[float, Meta(ge=0, le=1_000_000)] = 0
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] = 0

    generation: Generation = 1
    stream_form: StreamForm = "chunks"
    requires: RequiredInput = "either"
    error_shape: ErrorShape = "seed"

    # Empty: any key will do, as long as there is one.
    api_keys: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    models: tuple[Annotated[str, Meta(min_length=1)], ...] = DEFAULT_MODELS
    answer_tokens_min: AnswerLength = 20
    answer_tokens_max: AnswerLength = 120

    faults: dict[FaultKind, Share] = msgspec.field(default_factory=dict)
    retry_after_s: Annotated[int, Meta(ge=0, le=86_400)] = 2
    slow_headers_ms: Milliseconds = 10_000
    stall_ms: Milliseconds = 600_000
    max_body_bytes: Annotated[int, Meta(ge=1, le=2**30)] = 64 * 2**20

    webhook_generation: Generation = 1
    # Empty: nothing is signed.
    webhook_secret: str = "whsec_simulator"  # noqa: S105 - a documented default
    webhook_retry_ms: Milliseconds = 500
    # LLMTune may deliver an event more than once; 2 makes it certain.
    webhook_copies: Annotated[int, Meta(ge=1, le=10)] = 1
    # Of all events: never sent, sent twice, and sent after others that happened later.
    webhook_drop: Share = 0
    webhook_double: Share = 0
    webhook_late: Share = 0
    webhook_late_ms: Milliseconds = 1_000
    batch_webhook: BatchWebhook = "batch"
    batch_ms: Milliseconds = 200
    job_queued_ms: Milliseconds = 500
    job_running_ms: Milliseconds = 2_000

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            check_setting(name, getattr(self, name))
        if self.answer_tokens_min > self.answer_tokens_max:
            raise SettingsError("answer_tokens_min", "the minimum is above the maximum")
        # Ten shares of 0.1 sum to a little less or more than 1.
        if math.fsum(self.faults.values()) > 1 + 1e-9:
            raise SettingsError("faults", "the shares sum to more than 1")
        if not self.models:
            raise SettingsError("models", "at least one model is needed")

    @property
    def token_interval_s(self) -> float:
        return 1 / self.tokens_per_second if self.tokens_per_second else 0.0


SETTING_TYPES: Final = get_type_hints(SimulatorSettings, include_extras=True)


def parse_setting(name: str, raw: object) -> object:
    """Convert the written form of one setting, for example `"20"`, into its type."""
    try:
        return msgspec.convert(raw, SETTING_TYPES[name], strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(name, str(error)) from error


def check_setting(name: str, value: object) -> None:
    # NaN is neither below nor above any limit.
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(name, "must be a finite number")
    try:
        msgspec.convert(value, SETTING_TYPES[name])
    except msgspec.ValidationError as error:
        raise SettingsError(name, str(error)) from error
