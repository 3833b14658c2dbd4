"""Settings from the environment: each mistake is one line that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.secret import Secret
from gateway.settings import (
    SECRETS,
    Settings,
    SettingsProblem,
    load_settings,
    unknown_variables,
    variable_of,
)

URL_ALLOWED = "an http:// or https:// URL without credentials, query or fragment"
ORIGINS_ALLOWED = "* or origins such as https://app.example.com"


def load(variable: str, value: str) -> Settings:
    return load_settings({f"GATEWAY_{variable}": value})


def problem(variable: str, value: str) -> str:
    with pytest.raises(SettingsProblem) as raised:
        load(variable, value)
    return str(raised.value)


def test_empty_environment_gives_the_defaults() -> None:
    assert Settings() == load_settings({})


@pytest.mark.parametrize("value", ["", " ", "\t\n"])
def test_empty_variable_counts_as_unset(value: str) -> None:
    assert Settings() == load("UPSTREAM_IDLE_TIMEOUT_S", value)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("UPSTREAM_URL", "http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("UPSTREAM_DIALECT", "inference", "inference"),
        ("UPSTREAM_PROMPT_FORM", "prompt", "prompt"),
        ("UPSTREAM_IDLE_TIMEOUT_S", "1.5", 1.5),
        ("UPSTREAM_IDLE_TIMEOUT_S", " 20 ", 20.0),
        ("UPSTREAM_MAX_ATTEMPTS", "5", 5),
        ("UPSTREAM_TRANSPORT", "stock", "stock"),
        ("UPSTREAM_UDS", "/run/proxy.sock", Path("/run/proxy.sock")),
        ("HTTP_MAX_BODY_BYTES", "1024", 1024),
        ("OPS_PORT", "9090", 9090),
        ("PLANS_DIR", "/etc/plans", Path("/etc/plans")),
        ("KEYS_FILE", "keys.yaml", Path("keys.yaml")),
        ("MODELS", "a/b, c ,,d", ("a/b", "c", "d")),
        ("CORS_ORIGINS", "*", ("*",)),
        ("WEBHOOKS_FILE", "webhooks.yaml", Path("webhooks.yaml")),
        ("WEBHOOKS_ALLOWED", "10.0.0.0/8, hooks.corp", ("10.0.0.0/8", "hooks.corp")),
        ("CORS_ORIGINS", "https://a.example,http://b:3000", None),
        ("LOG_LEVEL", "debug", "debug"),
        ("STORE_URL", "memory://", "memory://"),
    ],
)
def test_variable_is_read_as_its_type(variable: str, value: str, expected: Any) -> None:
    settings = load(variable, value)

    expected = tuple(value.split(",")) if expected is None else expected
    assert expected == getattr(settings, variable.lower())


WRONG = [
    ("UPSTREAM_DIALECT", "both", "one of auto, chat, inference"),
    ("UPSTREAM_PROMPT_FORM", "x", "one of both, messages, prompt"),
    ("LOG_LEVEL", "INFO", "one of debug, error, info, warning"),
    ("UPSTREAM_IDLE_TIMEOUT_S", "soon", "expected `float`, got `str`"),
    ("UPSTREAM_IDLE_TIMEOUT_S", "0", "expected `float` > 0.0"),
    ("UPSTREAM_IDLE_TIMEOUT_S", "-1", "expected `float` > 0.0"),
    ("UPSTREAM_IDLE_TIMEOUT_S", "nan", "expected `float` > 0.0"),
    ("UPSTREAM_IDLE_TIMEOUT_S", "inf", "expected `float` <= 86400.0"),
    ("UPSTREAM_IDLE_TIMEOUT_S", "1e9", "expected `float` <= 86400.0"),
    ("LEASE_TTL_S", "0.5", "expected `float` >= 1.0"),
    ("UPSTREAM_MAX_ATTEMPTS", "0", "expected `int` >= 1"),
    ("UPSTREAM_MAX_ATTEMPTS", "6", "expected `int` <= 5"),
    ("UPSTREAM_MAX_ATTEMPTS", "1.5", "expected `int`, got `str`"),
    ("HTTP_MAX_BODY_BYTES", "1", "expected `int` >= 1024"),
    ("HTTP_MAX_BODY_BYTES", "32MiB", "expected `int`, got `str`"),
    ("OPS_PORT", "0", "expected `int` >= 1"),
    ("OPS_PORT", "65536", "expected `int` <= 65535"),
]


@pytest.mark.parametrize(("variable", "value", "allowed"), WRONG)
def test_wrong_value_is_told_with_what_is_allowed(
    variable: str, value: str, allowed: str
) -> None:
    assert f"GATEWAY_{variable}={value!r}: {allowed}" == problem(variable, value)


@pytest.mark.parametrize(
    "field",
    [
        field.name
        for field in msgspec.structs.fields(Settings)
        if any(word in str(field.type) for word in ("float", "int"))
    ],
)
def test_every_number_refuses_a_word_by_its_name(field: str) -> None:
    with pytest.raises(
        SettingsProblem, match=f"^{variable_of(field)}='many': expected"
    ):
        load_settings({variable_of(field): "many"})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("ftp://host/v1", "'ftp://host/v1'", id="scheme"),
        pytest.param("host/v1", "'host/v1'", id="no-scheme"),
        pytest.param("https://", "'https://'", id="no-host"),
        pytest.param("https://host?x=secret", "'(not shown)'", id="query"),
        pytest.param("https://host#secret", "'(not shown)'", id="fragment"),
        pytest.param("https://me:secret@host", "'(not shown)'", id="credentials"),
        pytest.param("https://host:0", "'https://host:0'", id="port-0"),
        pytest.param("https://host:99999", "'https://host:99999'", id="port-beyond"),
        pytest.param("https://host:secret", "'(not shown)'", id="port-as-text"),
        pytest.param("https://[::1", "'(not shown)'", id="half-an-ipv6"),
    ],
)
def test_wrong_upstream_url_is_refused_and_hides_what_may_be_secret(
    url: str, shown: str
) -> None:
    assert f"GATEWAY_UPSTREAM_URL={shown}: {URL_ALLOWED}" == problem(
        "UPSTREAM_URL", url
    )


@pytest.mark.parametrize(
    "url",
    [
        "memory://x:secret@y",
        "redis://:secret@host:port",
        "redis://:secret@host/0?tiemout=1",
        "redis+sentinel://u:secret@h",
        "rabbit://u:secret@h/0",
        "secret",
    ],
)
def test_unknown_store_is_refused_and_hides_its_password(url: str) -> None:
    line = problem("STORE_URL", url)

    assert line.startswith("GATEWAY_STORE_URL=")
    assert "secret" not in line


@pytest.mark.parametrize(
    "origin",
    ["app.example.com", "ftp://a", "https://a/", "https://a/b", "https://a?x", "null"],
)
def test_wrong_origin_is_refused(origin: str) -> None:
    assert f"GATEWAY_CORS_ORIGINS={origin!r}: {ORIGINS_ALLOWED}" == problem(
        "CORS_ORIGINS", f"https://good.example, {origin}"
    )


def test_problem_shows_a_bounded_part_of_the_value_in_one_line() -> None:
    line = problem("OPS_PORT", "x\n" * 5000)

    assert 1 == len(line.splitlines())
    assert len(line) < 800


@pytest.mark.parametrize("field", sorted(SECRETS))
def test_secret_is_a_setting(field: str) -> None:
    assert field in {each.name for each in msgspec.structs.fields(Settings)}


def test_secret_is_read_and_shown_to_nobody() -> None:
    settings = load("UPSTREAM_API_KEY", "sk_live_x")

    assert isinstance(settings.upstream_api_key, Secret)
    assert "sk_live_x" == settings.upstream_api_key.reveal()
    assert "sk_live_x" not in repr(settings)


def test_unknown_variable_is_told_with_a_hint() -> None:
    assert [
        "GATEWAY_UPSTREM_URL is not a setting and is ignored; did you mean"
        " GATEWAY_UPSTREAM_URL?"
    ] == unknown_variables({"GATEWAY_UPSTREM_URL": "x", "OTHER": "y"})


def test_unknown_variable_without_a_neighbour_has_no_hint() -> None:
    name = "GATEWAY_PORT_8080_TCP_PROTO"

    assert [f"{name} is not a setting and is ignored"] == unknown_variables({name: "x"})


def test_unknown_variables_are_told_without_their_values() -> None:
    lines = unknown_variables({"GATEWAY_API_KEY": "sk_live_secret"})

    assert "secret" not in "".join(lines)


def test_known_variables_are_not_told() -> None:
    known = {variable_of(field.name): "x" for field in msgspec.structs.fields(Settings)}

    assert [] == unknown_variables(known)


def test_webhooks_need_a_place_for_what_they_tell_of() -> None:
    """Without files and batches nothing would ever be told."""
    hooks = {"GATEWAY_WEBHOOKS_FILE": "hooks.yaml"}
    store = {"GATEWAY_STORE_URL": "redis://redis"}
    storage = {"GATEWAY_STORAGE_URL": "file:///files"}

    assert load_settings(hooks).webhooks_file == Path("hooks.yaml")
    assert load_settings(hooks | store | storage).webhooks_file == Path("hooks.yaml")
    with pytest.raises(SettingsProblem, match="needs GATEWAY_STORAGE_URL"):
        load_settings(hooks | store)


def test_proxy_needs_a_transport_that_takes_one() -> None:
    """A proxy that is set and not used would send calls where nobody expects them."""
    said = problem("UPSTREAM_PROXY_URL", "http://me:secret@proxy:3128")

    assert "secret" not in said
    assert said == (
        "GATEWAY_UPSTREAM_PROXY_URL=(not shown):"
        " needs GATEWAY_UPSTREAM_TRANSPORT=stock or http2"
    )


@pytest.mark.parametrize("url", ["proxy:3128", "ftp://proxy", "http://", "http://p:x"])
def test_proxy_has_to_be_one(url: str) -> None:
    with pytest.raises(SettingsProblem, match="URL of a host"):
        load_settings(
            {"GATEWAY_UPSTREAM_PROXY_URL": url, "GATEWAY_UPSTREAM_TRANSPORT": "stock"}
        )


def test_sealing_keys_are_checked_at_the_start_and_never_shown() -> None:
    told = problem("REPLAY_SEALING_KEYS", "2026:not-a-key")

    assert told.startswith("GATEWAY_REPLAY_SEALING_KEYS=(not shown): up to 8 of id:key")
    key = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
    assert key not in repr(load("REPLAY_SEALING_KEYS", f"2026:{key}"))
