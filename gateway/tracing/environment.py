"""
Whether traces and metrics are exported, as OpenTelemetry's variables say.

Knows nothing of the SDK, which is not even imported where both are off.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from gateway.settings import SettingsProblem

if TYPE_CHECKING:
    from gateway.tracing.tracing import Tracing

Signal: TypeAlias = Literal["traces", "metrics"]

CAPTURE_CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
# What other instrumentations take for yes: util-genai's words, and a plain true.
_CAPTURING: Final = frozenset({"true", "1", "span_only", "span_and_event"})


class Exports(msgspec.Struct, frozen=True):
    """The exporters each signal goes to, by name."""

    traces: tuple[str, ...]
    metrics: tuple[str, ...]


def exports_of(environment: Mapping[str, str]) -> Exports | None:
    """What is exported and where to; None if nothing is."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    found = Exports(
        exporters_of(environment, "traces"), exporters_of(environment, "metrics")
    )
    return found if found.traces or found.metrics else None


def exporters_of(environment: Mapping[str, str], signal: Signal) -> tuple[str, ...]:
    """The names in `OTEL_TRACES_EXPORTER`; OTLP where only an endpoint is given."""
    stated = environment.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip()
    if not stated:
        named = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint_variable(signal))
        is_given = any(environment.get(name, "").strip() for name in named)
        return ("otlp",) if is_given else ()
    names = tuple(name.strip() for name in stated.split(",") if name.strip())
    if "none" in {name.lower() for name in names}:
        return ()
    return names


def endpoint_variable(signal: Signal) -> str:
    return f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"


def captures_content(environment: Mapping[str, str]) -> bool:
    """Whether prompts and answers may be in spans: only if that is said."""
    return environment.get(CAPTURE_CONTENT, "").strip().lower() in _CAPTURING


def open_tracing(environment: Mapping[str, str]) -> Tracing | None:
    """The tracing that is asked for; None, and nothing imported, if none is."""
    exports = exports_of(environment)
    if exports is None:
        return None
    if environment.get("OTEL_CONFIG_FILE", "").strip():
        raise SettingsProblem(
            "OTEL_CONFIG_FILE: not supported; set OpenTelemetry's other variables"
        )
    # The SDK takes 0.2 s to import, which only those wait for who asked for it.
    try:
        setup = import_module("gateway.tracing.setup")
    except ModuleNotFoundError as problem:
        raise SettingsProblem(
            f"OTEL_*: traces and metrics need {problem.name}; install"
            " llmtune-gateway[otlp-http] or [otlp-grpc]"
        ) from problem
    tracing: Tracing = setup.set_up(exports, environment)
    return tracing
