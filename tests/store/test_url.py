"""Store URLs: which are understood, and what the others are told."""

from __future__ import annotations

import pytest

from policies.store.errors import Address
from policies.store.store import open_store
from policies.store.url import StoreUrl, StoreUrlProblem, TlsOptions, parse_store_url

GOOD = [
    pytest.param("memory://", StoreUrl(kind="memory"), id="memory"),
    pytest.param(
        "redis://h",
        StoreUrl(kind="standalone", hosts=(Address("h", 6379),)),
        id="defaults",
    ),
    pytest.param(
        "redis://u%40:p%3A%2F%25@h:7/3",
        StoreUrl(
            kind="standalone",
            hosts=(Address("h", 7),),
            db=3,
            username="u@",
            password="p:/%",
        ),
        id="percent-encoded",
    ),
    pytest.param(
        "redis://:pw@[::1]:7?db=2",
        StoreUrl(kind="standalone", hosts=(Address("::1", 7),), db=2, password="pw"),
        id="IPv6 and db as an option",
    ),
    pytest.param(
        "unix://u:pw@/run/a%20b.sock?db=1",
        StoreUrl(
            kind="standalone",
            unix_path="/run/a b.sock",
            db=1,
            username="u",
            password="pw",
        ),
        id="socket",
    ),
    pytest.param(
        "rediss://h?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k"
        "&ssl_check_hostname=false",
        StoreUrl(
            kind="standalone",
            hosts=(Address("h", 6379),),
            tls=TlsOptions(
                ca_certs="/ca", certfile="/c", keyfile="/k", is_hostname_checked=False
            ),
        ),
        id="TLS",
    ),
    pytest.param(
        "redis+sentinel://u:pw@a,[::1]:7/main/4"
        "?sentinel_username=su&sentinel_password=sp",
        StoreUrl(
            kind="sentinel",
            hosts=(Address("a", 26379), Address("::1", 7)),
            db=4,
            username="u",
            password="pw",
            master_name="main",
            sentinel_username="su",
            sentinel_password="sp",
        ),
        id="sentinels",
    ),
    pytest.param(
        "rediss+cluster://a:1,b",
        StoreUrl(
            kind="cluster",
            hosts=(Address("a", 1), Address("b", 6379)),
            tls=TlsOptions(),
        ),
        id="cluster",
    ),
]

BAD = [
    pytest.param("", "begins with one of memory://", id="empty"),
    pytest.param("http://h", "begins with one of memory://", id="scheme"),
    pytest.param("memory://x", "neither a host nor options", id="memory host"),
    pytest.param("redis://", "host:port", id="no host"),
    pytest.param("redis://h:0", "from 1 to 65535", id="port 0"),
    pytest.param("redis://h:secret", "from 1 to 65535", id="port"),
    pytest.param("redis://h:65536", "from 1 to 65535", id="port too large"),
    pytest.param("redis://::1:7", "ipv6", id="IPv6 without brackets"),
    pytest.param("redis://[::1", "brackets", id="open bracket"),
    pytest.param("redis://a,b", "several hosts", id="several hosts"),
    pytest.param("redis://h/secret", "a database is a number", id="db"),
    pytest.param("redis://h/-1", "a database is a number", id="negative db"),
    pytest.param("redis://h/1?db=2", "given once", id="two dbs"),
    pytest.param("redis://h/1/2", "given once", id="deep path"),
    pytest.param("redis://h?secret=1", "each once and with a value: db", id="unknown"),
    pytest.param("redis://h?db=1&db=1", "each once", id="twice"),
    pytest.param("redis://h?db=", "with a value", id="without a value"),
    pytest.param("redis://h?ssl_ca_certs=/ca", "options of redis://", id="not TLS"),
    pytest.param("rediss://h?ssl_check_hostname=no", "true or false", id="not bool"),
    pytest.param("rediss://h?ssl_keyfile=/k", "goes with ssl_certfile", id="key only"),
    pytest.param("redis://:secret/x@h", "percent-encoded", id="raw slash"),
    pytest.param("redis://:secret?x@h", "percent-encoded", id="raw question mark"),
    pytest.param("redis://:secret#x@h", "percent-encoded", id="raw hash"),
    pytest.param("unix://secret/run/x", "unix:///path", id="socket with a host"),
    pytest.param("unix://", "unix:///path", id="socket without a path"),
    pytest.param("redis+sentinel://h", "needs a master name", id="no master"),
    pytest.param("redis+cluster://h/1", "one database", id="db in a cluster"),
    pytest.param("redis+cluster://h,", "host:port", id="empty host"),
]


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_a_url_is_understood(text: str, expected: StoreUrl) -> None:
    """Every form that the README shows means what it says."""
    assert expected == parse_store_url(text)


@pytest.mark.parametrize(("text", "part"), BAD)
def test_a_bad_url_is_told_what_is_allowed(text: str, part: str) -> None:
    """The message helps, and shows nothing that may be a part of a password."""
    with pytest.raises(StoreUrlProblem) as caught:
        parse_store_url(text)

    assert part in str(caught.value)
    assert "secret" not in str(caught.value)


SHOWN = [
    pytest.param("memory://", "memory://", id="memory"),
    pytest.param("rediss://u:secret@[::1]:7/3", "rediss://[::1]:7/3", id="TLS"),
    pytest.param("unix://:secret@/a?db=1", "unix:///a?db=1", id="socket"),
    pytest.param("redis+cluster://:secret@a,b:1", "redis+cluster://a:6379,b:1", id="c"),
    pytest.param(
        "redis+sentinel://:secret@a/main?sentinel_password=secret",
        "redis+sentinel://a:26379/main/0",
        id="sentinels",
    ),
]


@pytest.mark.parametrize(("text", "expected"), SHOWN)
def test_a_url_shows_no_credentials(text: str, expected: str) -> None:
    """Whoever logs a store URL logs no password."""
    url = parse_store_url(text)

    assert expected == str(url)
    assert f"<StoreUrl {expected}>" == repr(url)


def test_memory_is_not_connected_to() -> None:
    """The embedded ledger has no connections, so asking for one is a mistake."""
    with pytest.raises(StoreUrlProblem, match="no store"):
        open_store("memory://", client_name="under-test")


def test_a_missing_certificate_stops_the_start() -> None:
    """A wrong path is found when the store is opened, not when it is first needed."""
    with pytest.raises(StoreUrlProblem, match="TLS file"):
        open_store("rediss://h?ssl_ca_certs=/no/such/file", client_name="under-test")
