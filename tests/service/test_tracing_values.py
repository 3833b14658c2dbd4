"""OpenTelemetry's values: what is wrong is said at the start, and not at an export."""

from __future__ import annotations

import os
from typing import Final

import pytest

from gateway.settings import SettingsProblem
from gateway.tracing.environment import exports_of, open_tracing
from gateway.tracing.values import check_otlp, check_values

HTTP: Final = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
}
GRPC: Final = HTTP | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
OTLP: Final = "OTEL_EXPORTER_OTLP"


@pytest.mark.parametrize("protocol", [HTTP, GRPC], ids=["http", "grpc"])
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (f"{OTLP}_TIMEOUT", "10s", "=10s: a number above 0, in seconds"),
        (f"{OTLP}_TRACES_TIMEOUT", "-1", "=-1: a number above 0, in seconds"),
        (f"{OTLP}_METRICS_TIMEOUT", "inf", "=inf: a number above 0, in seconds"),
        (f"{OTLP}_CERTIFICATE", "/no/ca.pem", "=/no/ca.pem: a file that is there"),
        (f"{OTLP}_CLIENT_KEY", "/no/key.pem", "=/no/key.pem: a file that is there"),
        (f"{OTLP}_ENDPOINT", "not a url", ": "),
        (f"{OTLP}_ENDPOINT", "http://:4317", ": "),
        (f"{OTLP}_ENDPOINT", "http://a collector:4317", ": "),
        (f"{OTLP}_TRACES_ENDPOINT", "http://host:99999", ": "),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s", "=5s: a whole number above 0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "=0: a whole number above 0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "=1m: a number above 0"),
        (
            f"{OTLP}_METRICS_TEMPORALITY_PREFERENCE",
            "sideways",
            "=sideways: one of cumulative, delta, lowmemory",
        ),
    ],
)
def test_a_wrong_value_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
    protocol: dict[str, str],
    variable: str,
    value: str,
    said: str,
) -> None:
    """With the variable's name, and what it should be."""
    for name, each in (protocol | {variable: value}).items():
        monkeypatch.setenv(name, each)

    with pytest.raises(SettingsProblem) as raised:
        open_tracing(os.environ)

    assert str(raised.value).startswith(variable + said)


@pytest.mark.parametrize(
    ("protocol", "compression", "known"),
    [(HTTP, "brotli", "deflate, gzip, none"), (GRPC, "deflate", "gzip")],
    ids=["http", "grpc"],
)
def test_compressions_are_the_protocols(
    monkeypatch: pytest.MonkeyPatch,
    protocol: dict[str, str],
    compression: str,
    known: str,
) -> None:
    """An exporter's own complaint would be a traceback, or none at all."""
    for name, each in (protocol | {f"{OTLP}_COMPRESSION": compression}).items():
        monkeypatch.setenv(name, each)

    with pytest.raises(SettingsProblem) as raised:
        open_tracing(os.environ)

    assert f"{OTLP}_COMPRESSION={compression}: one of {known}" == str(raised.value)


def test_an_endpoint_without_a_scheme_is_for_grpc_alone() -> None:
    """Over HTTP every export would fail, each with a line in the log."""
    bare = {f"{OTLP}_ENDPOINT": "httpd-collector:4317"}

    check_otlp("traces", "otlp_proto_grpc", bare)
    with pytest.raises(SettingsProblem, match="a URL with http:// or https://"):
        check_otlp("traces", "otlp_proto_http", bare)


@pytest.mark.parametrize(
    "headers", ["authorization: Bearer t0ken", 'a="t0ken"', "t0ken"]
)
def test_a_token_in_a_wrong_form_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, headers: str
) -> None:
    """Neither by the line that stops the start nor in the log."""
    for name, each in (HTTP | {f"{OTLP}_HEADERS": headers}).items():
        monkeypatch.setenv(name, each)

    with pytest.raises(SettingsProblem) as raised:
        open_tracing(os.environ)

    assert f"{OTLP}_HEADERS: name=value, several with commas" == str(raised.value)
    assert "t0ken" not in caplog.text


def test_a_providers_name_that_nothing_offers_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line, where the SDK raises what is no ValueError."""
    name = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"
    for variable, value in (HTTP | {name: "nobody"}).items():
        monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsProblem, match="'nobody' not found"):
        open_tracing(os.environ)


@pytest.mark.parametrize(
    "good",
    [
        {f"{OTLP}_HEADERS": "authorization=Bearer t0ken,x-scope=a%20b,"},
        {f"{OTLP}_HEADERS": " "},
        {f"{OTLP}_TIMEOUT": "2.5", f"{OTLP}_COMPRESSION": "GZIP"},
        # The signal's own is what counts.
        {f"{OTLP}_TIMEOUT": "wrong", f"{OTLP}_TRACES_TIMEOUT": "3"},
        {f"{OTLP}_CERTIFICATE": __file__},
        {f"{OTLP}_ENDPOINT": "https://user:pass@collector.example:4318/otlp"},
        {f"{OTLP}_ENDPOINT": "http://[::1]:4318"},
        {f"{OTLP}_METRICS_TIMEOUT": "of a signal that goes nowhere"},
    ],
    ids=str,
)
def test_what_the_sdk_takes_is_taken(good: dict[str, str]) -> None:
    """Each of these would be exported with."""
    environment = HTTP | {"OTEL_METRICS_EXPORTER": "none"} | good
    exports = exports_of(environment)
    assert exports is not None

    check_values(exports, environment)
    check_otlp("traces", "otlp_proto_http", environment)
