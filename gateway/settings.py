"""
Every setting, its default and what it may be; read once, from the environment.

A wrong value stops the start with one line. Secrets are shown in no message.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.secret import Secret
from gateway.trusted_peers import TrustedPeers
from policies.names import find_workspace_problem
from policies.store.url import StoreUrlProblem, parse_store_url

if TYPE_CHECKING:
    from policies.replay.sealing import Seal

Dialect: TypeAlias = Literal["auto", "inference", "chat"]
PromptForm: TypeAlias = Literal["both", "prompt", "messages"]
TransportKind: TypeAlias = Literal["lean", "stock", "http2"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=86_400)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes: TypeAlias = Annotated[int, Meta(ge=1024, le=2**32)]
Ratio: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65_535)]

PREFIX: Final = "GATEWAY_"
MIB: Final = 1024 * 1024

# The URLs of a store and of a proxy hold passwords.
SECRETS: Final = frozenset(
    {
        *("upstream_api_key", "upstream_proxy_url", "store_url"),
        *("replay_sealing_keys", "webhook_secret"),
    }
)


class SettingsProblem(Exception):
    """One line: the variable, its value, and what is allowed."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's settings; a field `x_y` is the variable `GATEWAY_X_Y`."""

    # Where completions come from.
    upstream_url: str = "https://api.llmtune.io/v1"
    upstream_api_key: Secret | None = None
    upstream_dialect: Dialect = "auto"
    upstream_prompt_form: PromptForm = "both"
    # A TCP and TLS handshake that takes longer than this will not become a good answer.
    upstream_connect_timeout_s: Seconds = 5.0
    # A whole answer arrives with its first byte, so this bounds the longest generation.
    upstream_first_byte_timeout_s: Seconds = 300.0
    upstream_idle_timeout_s: Seconds = 60.0
    # OpenAI's SDKs give up after 600 s; working on for nobody costs tokens.
    upstream_total_timeout_s: Seconds = 600.0
    # Clients retry twice by themselves: more than one retry here multiplies theirs.
    upstream_max_attempts: Annotated[int, Meta(ge=1, le=5)] = 2
    upstream_max_connections: Count = 1000
    # Connections are made to this Unix socket, whatever the URL's host.
    upstream_uds: Path | None = None
    # `stock` is httpx's own, for proxies, and `http2` speaks HTTP/2, where the extra of
    # that name is installed; both at a multiple of the cost.
    upstream_transport: TransportKind = "lean"
    upstream_proxy_url: Secret | None = None
    upstream_max_answer_bytes: Bytes = 32 * MIB
    upstream_max_event_bytes: Bytes = 1 * MIB

    # Who may call, and how much.
    store_url: str = "memory://"
    # A store in the same zone answers in a millisecond; a request waits for this once.
    store_timeout_s: Annotated[float, Meta(ge=0.005, le=5)] = 0.05
    store_connect_timeout_s: Annotated[float, Meta(ge=0.005, le=30)] = 0.25
    # What plans are divided by while the store is away, unless more were seen before.
    store_min_replicas: Annotated[int, Meta(ge=1, le=10_000)] = 1
    plans_dir: Path | None = None
    keys_file: Path | None = None
    default_plan: str | None = None
    # Next to one application: whoever reaches the listener is this workspace, on this
    # plan, whatever key it sends. Loopback and Unix sockets only.
    sidecar_workspace: str | None = None
    sidecar_plan: str | None = None
    refused_key_ttl_s: Seconds = 60.0
    key_cache_ttl_s: Seconds = 30.0
    lease_ttl_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    # How long those who follow a request with a key wait for a runner that is silent.
    replay_lease_ttl_s: Annotated[float, Meta(ge=1, le=3600)] = 6.0
    # `id:base64` of 32 bytes, the first closes and all open; unset: not encrypted.
    replay_sealing_keys: Secret | None = None
    reload_interval_s: Seconds = 1.0
    models: tuple[str, ...] = ()
    models_ttl_s: Seconds = 300.0

    # Files and batches, and how LLMTune tells what became of them.
    # `file:///path` or `s3://bucket/prefix`; unset: there are no files and no batches.
    storage_url: str | None = None
    # Where LLMTune reaches `/webhooks/llmtune`; unset: each line of a batch is a call.
    public_url: str | None = None
    # Several, separated by spaces: the first signs our own URLs, and all verify.
    webhook_secret: Secret | None = None
    # A hundred results of 2,000 tokens are 1 MiB, and some models say more.
    webhook_max_body_bytes: Bytes = 8 * MIB
    # Who is told of what, and who of them may be in our own network.
    webhooks_file: Path | None = None
    webhooks_allowed: tuple[str, ...] = ()
    # A chunk whose results have not come by then is sent again.
    batch_result_timeout_s: Annotated[float, Meta(ge=0.1, le=86_400)] = 600.0
    # How often a fine-tune is looked at, whatever webhooks say of it.
    fine_tune_poll_s: Annotated[float, Meta(ge=0.05, le=3600)] = 30.0
    # OpenAI's own bound.
    file_max_bytes: Bytes = 512 * MIB

    # What a client may do to us.
    http_max_body_bytes: Bytes = 32 * MIB
    # OpenAI asks for less than 64 KiB of headers.
    http_max_header_bytes: Bytes = 64 * 1024
    http_header_timeout_s: Seconds = 10.0
    http_body_timeout_s: Seconds = 30.0
    http_write_timeout_s: Seconds = 30.0
    http_keepalive_timeout_s: Seconds = 75.0
    http_max_in_flight: Count = 10_000
    cors_origins: tuple[str, ...] = ()
    # Networks, and `unix`, whose word on a client's identity is believed.
    trusted_proxies: tuple[str, ...] = ()

    # How it is operated.
    ops_port: Port | None = None
    # Where that port is, if not where the API is: probes come over the pod's address to
    # a sidecar whose API is on loopback.
    ops_host: str | None = None
    # Envoy's rate-limit service on the same ledger, for the mesh's proxies only.
    rate_limit_port: Port | None = None
    rate_limit_domain: str = "llmtune"
    # Load balancers cut connections that are silent for 30 to 60 s.
    stream_ping_interval_s: Seconds = 15.0
    # After SIGTERM: no longer ready, still serving, until who sends requests knows.
    drain_notice_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    # Then nothing new is taken, and what runs has this long.
    drain_timeout_s: Seconds = 30.0
    log_level: LogLevel = "info"
    # Of the access lines of answered requests; the others are always written.
    log_success_ratio: Ratio = 1.0


def variable_of(field: str) -> str:
    return PREFIX + field.upper()


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Read every `GATEWAY_*` variable; an empty one counts as unset."""
    raw: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        text = environment.get(variable_of(field.name), "").strip()
        if text:
            raw[field.name] = _converted(field, text)
    settings = Settings(**raw)
    _check_url(settings.upstream_url)
    _check_key(settings.upstream_api_key)
    _check_transport(settings)
    _check_store(settings.store_url)
    _check_sealing_keys(settings.replay_sealing_keys)
    _check_origins(settings.cors_origins)
    _check_sidecar(settings)
    _check_proxies(settings.trusted_proxies)
    _check_rate_limit(settings)
    _check_public_url(settings)
    _check_webhooks(settings)
    return settings


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """
    Lines about `GATEWAY_*` variables that mean nothing here.

    Warned about, not refused: Kubernetes injects `GATEWAY_SERVICE_HOST` and its like
    into every pod beside a Service called `gateway`.
    """
    known = {field.name.upper() for field in msgspec.structs.fields(Settings)}
    lines = []
    for name in sorted(environment):
        own = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and own not in known:
            # Compared without the prefix, which would make every two names similar.
            close = difflib.get_close_matches(own, known, n=1, cutoff=0.75)
            hint = f"; did you mean {PREFIX}{close[0]}?" if close else ""
            lines.append(f"{name} is not a setting and is ignored{hint}")
    return lines


def _converted(field: msgspec.structs.FieldInfo, text: str) -> Any:
    value: Any = text
    if field.type == tuple[str, ...]:
        value = tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return msgspec.convert(value, field.type, strict=False, dec_hook=_own_type)
    except msgspec.ValidationError as error:
        raise _problem(field.name, text, _allowed(field, str(error))) from None


def _own_type(expected: type, value: Any) -> Any:
    if expected in {Path, Secret}:
        return expected(value)
    raise NotImplementedError(expected)


def _allowed(field: msgspec.structs.FieldInfo, complaint: str) -> str:
    kind = msgspec.inspect.type_info(field.type)
    choices = getattr(kind, "values", None)
    if choices is not None:
        return "one of " + ", ".join(str(choice) for choice in choices)
    return complaint[:1].lower() + complaint[1:].replace(" | null", "")


def _problem(field: str, value: str, allowed: str) -> SettingsProblem:
    shown = "(not shown)" if field in SECRETS else repr(value[:200])
    return SettingsProblem(f"{variable_of(field)}={shown}: {allowed}")


def printable_key(text: str) -> str | None:
    """The text if it can stand in an Authorization header, else None."""
    is_printable = text.isascii() and text.isprintable() and " " not in text
    return text if text and is_printable else None


def _check_key(key: Secret | None) -> None:
    if key is not None and printable_key(key.reveal()) is None:
        raise _problem(
            "upstream_api_key", "", "printable ASCII characters without spaces"
        )


def _check_transport(settings: Settings) -> None:
    kind, proxy = settings.upstream_transport, settings.upstream_proxy_url
    if proxy is not None and kind == "lean":
        raise _problem(
            "upstream_proxy_url", "", "needs GATEWAY_UPSTREAM_TRANSPORT=stock or http2"
        )
    if proxy is not None and not is_proxy_url(proxy.reveal()):
        raise _problem(
            "upstream_proxy_url", "", "an http://, https:// or socks5:// URL of a host"
        )
    needed = {"http2": "h2"}.get(kind)
    if needed is not None and find_spec(needed) is None:
        raise _problem(
            "upstream_transport", kind, "lean or stock; http2 needs the package h2"
        )


def is_proxy_url(text: str) -> bool:
    """Whether httpx could use it; SOCKS where the package for it is there."""
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    kinds = {"http", "https"} | ({"socks5"} if find_spec("socksio") else set())
    return has_host and parts.scheme in kinds


def _check_url(url: str) -> None:
    allowed = "an http:// or https:// URL without credentials, query or fragment"
    try:
        parts = urlsplit(url)
        has_port_in_range = parts.port is None or parts.port > 0
    except ValueError:
        raise _problem("upstream_url", _without_secrets(url), allowed) from None
    is_plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or not is_plain
        or not has_port_in_range
    ):
        raise _problem("upstream_url", _without_secrets(url), allowed)


def _without_secrets(url: str) -> str:
    # Credentials stand before an @, keys in queries and fragments, and where a port
    # should be there may be a password whose @ was forgotten.
    is_plain = re.fullmatch(r"(\w+://)?[\w.\-]*(:\d+)?(/[\w./\-]*)?", url)
    return url if is_plain else "(not shown)"


def _check_store(url: str) -> None:
    try:
        parse_store_url(url)
    except StoreUrlProblem as problem:
        raise _problem("store_url", url, str(problem)) from None


def _check_sealing_keys(keys: Secret | None) -> None:
    if keys is None:
        return
    try:
        seal_of(keys)
    except ValueError as problem:
        raise _problem("replay_sealing_keys", "", str(problem)) from None


def seal_of(keys: Secret) -> Seal:
    """What answers are sealed with; ValueError if the keys are none."""
    if find_spec("cryptography") is None:
        raise ValueError("needs the package cryptography")
    # An extra, and a tenth of a second of start-up.
    from policies.replay.sealing import parse_sealing_keys  # noqa: PLC0415

    return parse_sealing_keys(keys.reveal())


def _check_origins(origins: tuple[str, ...]) -> None:
    for origin in origins:
        if origin != "*" and not _is_origin(origin):
            raise _problem(
                "cors_origins", origin, "* or origins such as https://app.example.com"
            )


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        rebuilt = f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        return False
    # An origin is scheme, host and port, and nothing else: browsers compare it whole.
    is_web = parts.scheme in {"http", "https"} and parts.hostname is not None
    return is_web and text == rebuilt and "@" not in text and text.isascii()


def _check_sidecar(settings: Settings) -> None:
    workspace, plan = settings.sidecar_workspace, settings.sidecar_plan
    if workspace is None:
        if plan is not None:
            raise _problem("sidecar_plan", plan, "needs GATEWAY_SIDECAR_WORKSPACE")
        return
    wrong = find_workspace_problem(workspace)
    if wrong is not None:
        raise _problem("sidecar_workspace", workspace, wrong)
    if plan is None:
        raise _problem("sidecar_workspace", workspace, "needs GATEWAY_SIDECAR_PLAN")
    if settings.upstream_api_key is None:
        # The application has no key that could go upstream.
        allowed = "needs GATEWAY_UPSTREAM_API_KEY"
        raise _problem("sidecar_workspace", workspace, allowed)
    if "*" in settings.cors_origins:
        allowed = "not with GATEWAY_CORS_ORIGINS=*: any web page could spend its plan"
        raise _problem("sidecar_workspace", workspace, allowed)
    if settings.default_plan is not None:
        allowed = "not with GATEWAY_DEFAULT_PLAN, which lets callers bring their keys"
        raise _problem("sidecar_workspace", workspace, allowed)


def _check_proxies(proxies: tuple[str, ...]) -> None:
    try:
        TrustedPeers(proxies)
    except ValueError as problem:
        allowed = f"networks such as 10.0.0.0/8, or unix; {problem}"
        raise _problem("trusted_proxies", ",".join(proxies), allowed) from None


def _check_webhooks(settings: Settings) -> None:
    has_files = settings.storage_url is not None or settings.store_url == "memory://"
    if settings.webhooks_file is not None and not has_files:
        # Nothing would ever be told, and nobody would know why.
        allowed = "needs GATEWAY_STORAGE_URL"
        raise _problem("webhooks_file", str(settings.webhooks_file), allowed)


def _check_rate_limit(settings: Settings) -> None:
    port = settings.rate_limit_port
    if port is not None and find_spec("grpc") is None:
        raise _problem("rate_limit_port", str(port), "needs the package grpcio")


def _check_public_url(settings: Settings) -> None:
    url = settings.public_url
    if url is None:
        return
    if not _is_origin(url.rstrip("/")):
        allowed = "a URL such as https://llm.example.com, without a path"
        raise _problem("public_url", _without_secrets(url), allowed)
    if settings.webhook_secret is None or not settings.webhook_secret.split():
        # What the URLs that LLMTune is given are signed with, too.
        raise _problem("public_url", url, "needs GATEWAY_WEBHOOK_SECRET")
