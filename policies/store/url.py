"""
Store URLs: one line says where Redis is, how to log in and whom to trust.

Messages and representations never show a password, nor any piece of a URL that might
turn out to be a part of one.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from policies.store.errors import Address

Kind: TypeAlias = Literal["memory", "standalone", "sentinel", "cluster"]

_KINDS: Final[dict[str, Kind]] = {
    "memory": "memory",
    "unix": "standalone",
    "redis": "standalone",
    "rediss": "standalone",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}
_DEFAULT_PORTS: Final[dict[Kind, int]] = {"sentinel": 26379}
_TLS_OPTIONS: Final = (
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
)
# What Redis accepts is bounded by its own `databases`; this only stops nonsense.
_MAX_DB: Final = 1_000_000


class StoreUrlProblem(ValueError):
    """A store URL that cannot be used. The message says what is allowed."""


class TlsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to trust, and who we say we are. Without files: the system's trust store."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    is_hostname_checked: bool = True


class StoreUrl(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed store URL. For a sentinel URL, `hosts` are the sentinels."""

    kind: Kind
    hosts: tuple[Address, ...] = ()
    unix_path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = None
    master_name: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: TlsOptions | None = None

    def __str__(self) -> str:
        """Enough to know it in a log: no credentials, no options."""
        if self.kind == "memory":
            return "memory://"
        if self.unix_path is not None:
            return f"unix://{self.unix_path}?db={self.db}"
        scheme = "rediss" if self.tls else "redis"
        if self.kind != "standalone":
            scheme += f"+{self.kind}"
        path = f"/{self.master_name}" if self.master_name else ""
        if self.kind != "cluster":
            path += f"/{self.db}"
        return f"{scheme}://{','.join(map(_shown, self.hosts))}{path}"

    def __repr__(self) -> str:
        return f"<StoreUrl {self}>"


def parse_store_url(text: str) -> StoreUrl:
    """Read a store URL, or raise StoreUrlProblem."""
    try:
        parts = urlsplit(text.strip())
    except ValueError:
        # Not chained: the cause would show the URL, and with it the password.
        raise StoreUrlProblem("an IPv6 address is written in brackets") from None
    kind = _KINDS.get(parts.scheme)
    if kind is None:
        allowed = ", ".join(f"{scheme}://" for scheme in _KINDS)
        raise StoreUrlProblem(f"a store URL begins with one of {allowed}")
    if "@" in parts.path + parts.query or "#" in text:
        raise StoreUrlProblem(
            "'@', ':', '/', '?', '#' and '%' in a name or password are percent-encoded"
        )
    if kind == "memory":
        return _parse_memory(parts.netloc, parts.path, parts.query)
    options = _parse_options(parts.scheme, kind, parts.query)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    master_name, db = _parse_path(parts.scheme, kind, parts.path, options)
    is_unix = parts.scheme == "unix"
    if is_unix and hosts:
        raise StoreUrlProblem("a socket is written unix:///path/to/socket?db=0")
    return StoreUrl(
        kind=kind,
        hosts=() if is_unix else _parse_hosts(kind, hosts),
        unix_path=unquote(parts.path) if is_unix else None,
        db=db,
        username=unquote(username) or None,
        password=unquote(password) or None,
        master_name=master_name,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=_to_tls(options) if parts.scheme.startswith("rediss") else None,
    )


def _parse_memory(netloc: str, path: str, query: str) -> StoreUrl:
    if netloc or path or query:
        raise StoreUrlProblem("memory:// takes neither a host nor options")
    return StoreUrl(kind="memory")


def _parse_options(scheme: str, kind: Kind, query: str) -> dict[str, str]:
    allowed: list[str] = [] if kind != "standalone" else ["db"]
    if kind == "sentinel":
        allowed += ["sentinel_username", "sentinel_password"]
    if scheme.startswith("rediss"):
        allowed += _TLS_OPTIONS
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in allowed or name in options or not value:
            listed = ", ".join(allowed) or "none"
            raise StoreUrlProblem(
                f"options of {scheme}://, each once and with a value: {listed}"
            )
        options[name] = value
    return options


def _parse_path(
    scheme: str, kind: Kind, path: str, options: dict[str, str]
) -> tuple[str | None, int]:
    if scheme == "unix":
        if len(path) < 2:
            raise StoreUrlProblem("a socket is written unix:///path/to/socket?db=0")
        return None, _parse_db(options.get("db", ""))
    segments = path.strip("/").split("/") if path.strip("/") else []
    if kind == "cluster":
        if segments:
            raise StoreUrlProblem("a cluster has one database; leave the path empty")
        return None, 0
    master_name = None
    if kind == "sentinel":
        if not segments:
            raise StoreUrlProblem(
                f"{scheme}://host:26379,host:26379/master-name[/db] needs a master name"
            )
        master_name = unquote(segments.pop(0))
    if len(segments) + ("db" in options) > 1:
        raise StoreUrlProblem("a database is given once, as the path's last part")
    return master_name, _parse_db(options.get("db", "".join(segments)))


def _parse_db(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and int(text) <= _MAX_DB):
        raise StoreUrlProblem("a database is a number, for instance /0 or ?db=0")
    return int(text)


def _parse_hosts(kind: Kind, text: str) -> tuple[Address, ...]:
    addresses = tuple(_parse_host(kind, one) for one in text.split(","))
    if kind == "standalone" and len(addresses) > 1:
        raise StoreUrlProblem(
            "several hosts are for redis+sentinel:// and redis+cluster://"
        )
    return addresses


def _parse_host(kind: Kind, text: str) -> Address:
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        is_sound = bool(bracket) and (not port or port.startswith(":"))
        port = port[1:]
    else:
        host, _, port = text.partition(":")
        is_sound = ":" not in port
    if not host or not is_sound:
        raise StoreUrlProblem("hosts are written host:port or [ipv6]:port")
    if not port:
        return Address(unquote(host), _DEFAULT_PORTS.get(kind, 6379))
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise StoreUrlProblem("a port is a number from 1 to 65535")
    return Address(unquote(host), int(port))


def _to_tls(options: dict[str, str]) -> TlsOptions:
    is_checked = options.get("ssl_check_hostname", "true")
    if is_checked not in ("true", "false"):
        raise StoreUrlProblem("ssl_check_hostname is true or false")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise StoreUrlProblem("ssl_keyfile goes with ssl_certfile")
    return TlsOptions(
        ca_certs=options.get("ssl_ca_certs"),
        certfile=options.get("ssl_certfile"),
        keyfile=options.get("ssl_keyfile"),
        is_hostname_checked=is_checked == "true",
    )


def _shown(address: Address) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"
