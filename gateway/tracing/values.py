"""
OpenTelemetry's variables whose wrong values the SDK passes over, or meets at an export.

It would warn once, with a collector's token in the line where that is in a wrong form,
and export with its default, or fail at each export for as long as the process runs.
Only what counts is looked at: a variable of a signal before the general one, and none
of a signal that goes nowhere. What is wrong is named, and never shown if it is secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from gateway.settings import SettingsProblem
from gateway.tracing.environment import Exports, Signal

# Whether a value will do.
Accepts: TypeAlias = Callable[[str], bool]
# That, and what to say if it will not.
Rule: TypeAlias = tuple[Accepts, str]
Rules: TypeAlias = Mapping[str, Rule]

_COMPRESSIONS: Final = {
    "otlp_proto_grpc": frozenset({"gzip"}),
    "otlp_proto_http": frozenset({"gzip", "deflate", "none"}),
}
# What the SDK makes headers of: W3C's baggage, and values with spaces.
_HEADER: Final = re.compile(
    r"[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+[ \t]*="
    r"[\x20\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
)
_HTTP: Final = re.compile(r"https?://", re.IGNORECASE)


def _is_above_0(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return 0 < number < math.inf


def _is_whole_above_0(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,18}", text) is not None and int(text) > 0


def _are_headers(text: str) -> bool:
    return all(_HEADER.fullmatch(each) for each in text.split(",") if each.strip())


def _is_there(text: str) -> bool:
    return Path(text).exists()


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0 and " " not in text
    except ValueError:
        return False


def _is_http_endpoint(text: str) -> bool:
    return _HTTP.match(text) is not None and _is_url(text)


def _is_grpc_endpoint(text: str) -> bool:
    # Without a scheme it is a host and a port, or one of gRPC's own names.
    return " " not in text and (_HTTP.match(text) is None or _is_url(text))


def _one_of(*words: str) -> Accepts:
    return lambda text: text.lower() in words


_NUMBER: Final = "a number above 0"
_WHOLE: Final = "a whole number above 0"
# By what such a variable's name ends in.
_OTLP: Final[Rules] = {
    "TIMEOUT": (_is_above_0, f"{_NUMBER}, in seconds"),
    "HEADERS": (_are_headers, "name=value, several with commas"),
    "CERTIFICATE": (_is_there, "a file that is there"),
    "CLIENT_KEY": (_is_there, "a file that is there"),
    "CLIENT_CERTIFICATE": (_is_there, "a file that is there"),
}
_OF_TRACES: Final[Rules] = {
    "OTEL_BSP_SCHEDULE_DELAY": (_is_whole_above_0, _WHOLE),
    "OTEL_BSP_MAX_QUEUE_SIZE": (_is_whole_above_0, _WHOLE),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": (_is_whole_above_0, _WHOLE),
    "OTEL_BSP_EXPORT_TIMEOUT": (_is_whole_above_0, _WHOLE),
}
_TEMPORALITIES: Final = ("cumulative", "delta", "lowmemory")
_AGGREGATIONS: Final = (
    "explicit_bucket_histogram",
    "base2_exponential_bucket_histogram",
)
_OF_METRICS: Final[Rules] = {
    "OTEL_METRIC_EXPORT_INTERVAL": (_is_above_0, _NUMBER),
    "OTEL_METRIC_EXPORT_TIMEOUT": (_is_above_0, _NUMBER),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": (
        _one_of(*_TEMPORALITIES),
        f"one of {', '.join(_TEMPORALITIES)}",
    ),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": (
        _one_of(*_AGGREGATIONS),
        f"one of {', '.join(_AGGREGATIONS)}",
    ),
}


def check_values(exports: Exports, environment: Mapping[str, str]) -> None:
    """SettingsProblem for the first that is wrong."""
    if exports.traces:
        _check(_OF_TRACES, environment)
    if exports.metrics:
        _check(_OF_METRICS, environment)


def check_otlp(signal: Signal, exporter: str, environment: Mapping[str, str]) -> None:
    """The same for what this exporter of the signal reads."""
    found: dict[str, Rule] = {}
    for part, rule in {**_OTLP, **_of_protocol(exporter)}.items():
        general, own = f"OTEL_EXPORTER_OTLP_{part}", _of_signal(signal, part)
        found[own if environment.get(own, "").strip() else general] = rule
    _check(found, environment)


def _of_protocol(exporter: str) -> Rules:
    compressions = sorted(_COMPRESSIONS[exporter])
    if exporter == "otlp_proto_grpc":
        endpoint = (_is_grpc_endpoint, "host:port or a URL")
    else:
        endpoint = (_is_http_endpoint, "a URL with http:// or https://")
    return {
        "ENDPOINT": endpoint,
        "COMPRESSION": (_one_of(*compressions), f"one of {', '.join(compressions)}"),
    }


def _of_signal(signal: Signal, part: str) -> str:
    return f"OTEL_EXPORTER_OTLP_{signal.upper()}_{part}"


def _check(rules: Rules, environment: Mapping[str, str]) -> None:
    for variable, (accepts, wanted) in rules.items():
        value = environment.get(variable, "").strip()
        if value and not accepts(value):
            # Headers are a collector's token, and a URL may have a password.
            is_secret = variable.endswith(("_HEADERS", "_ENDPOINT"))
            shown = variable if is_secret else f"{variable}={value}"
            raise SettingsProblem(f"{shown}: {wanted}")
