"""A webhook leads nowhere but to the open internet, or where the operator allows it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.webhooks.addresses import find_address_problem
from gateway.webhooks.targets import (
    NOTHING_ALLOWED,
    Allowed,
    Lookup,
    TargetRefused,
    check_url,
    resolve,
)

ANY = "0.0.0.0"  # noqa: S104 - nothing listens there
PUBLIC = "93.184.215.14"
PUBLIC_V6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


def says(*addresses: str) -> Lookup:
    """A resolver that has these for every name."""

    async def lookup(host: str, port: int) -> Sequence[str]:
        del host, port
        return addresses

    return lookup


async def resolved(
    url: str, lookup: Lookup, allowed: Allowed = NOTHING_ALLOWED
) -> tuple[str, ...]:
    target = check_url(url, allowed)
    deadline_s = asyncio.get_running_loop().time() + 5
    return await resolve(target, allowed, deadline_s=deadline_s, lookup=lookup)


@pytest.mark.parametrize(
    "host",
    [
        # Private, loopback, link-local, carrier-grade NAT, and their edges.
        *("127.0.0.1", "127.255.255.254", "10.0.0.1", "10.255.255.255"),
        *("172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255"),
        *("169.254.0.1", "100.64.0.1", "100.127.255.255", ANY, "0.1.2.3"),
        # Multicast, broadcast, reserved, documentation, benchmarking.
        *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
        *("192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1"),
        *("198.18.0.1", "198.19.255.255", "192.88.99.1"),
        # Clouds' metadata: most, Alibaba, Azure, Oracle, AWS over IPv6.
        *("169.254.169.254", "169.254.170.2", "100.100.100.200"),
        *("168.63.129.16", "192.0.0.192", "[fd00:ec2::254]"),
        # Other spellings of 127.0.0.1 and of 169.254.169.254.
        *("2130706433", "017700000001", "0x7f000001", "0X7F000001", "0x7f.0.0.1"),
        *("0177.0.0.1", "0177.0.0.01", "127.1", "127.0.1", "127.0.0.1.", "127.00.0.1"),
        *("127.0.0.0x1", "0", "0x0", "00", "1", "127.0.0.1.0", "127..0.1", "0x"),
        *("2852039166", "0xa9fea9fe", "169.254.43518", "0251.0376.0251.0376"),
        # Even of public addresses: 0x5db8d70e is not for people.
        *("0x5db8d70e", "1572394766", "93.184.55054", "256.1.1.1", "1.2.3.04"),
        # IPv6 of no interest to the internet.
        *("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[fe80::1]"),
        *("[fe80::1%25eth0]", "[fe80::1%eth0]", "[fc00::1]", "[fdff::1]", "[fec0::1]"),
        *("[ff02::1]", "[2001:db8::1]", "[3fff::1]", "[100::1]", "[5f00::1]"),
        *("[2001:2::1]", "[2001:20::1]", "[4000::1]"),
        # IPv4 within IPv6: mapped, compatible, translated, NAT64, 6to4, Teredo, ISATAP.
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::FFFF:10.0.0.1]"),
        *("[::ffff:169.254.169.254]", "[0:0:0:0:0:ffff:a9fe:a9fe]"),
        *(f"[::ffff:{PUBLIC}]", "[::127.0.0.1]", "[::7f00:1]", "[::ffff:0:127.0.0.1]"),
        *("[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::10.0.0.1]"),
        *("[64:ff9b:1::127.0.0.1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]"),
        *("[2002:c0a8:1::1]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]"),
        *("[2001:0:7f00:1::]", "[2606:2800::5efe:127.0.0.1]"),
        *("[2606:2800::200:5efe:10.0.0.1]", "[::1", "::1", "[127.0.0.1]", "[]"),
        f"[{PUBLIC}]",
        # Names of what is inside.
        *("localhost", "LOCALHOST", "localhost.", "LocalHost.", "a.localhost"),
        *("a.localhost.", "localhost.localdomain", "ip6-localhost", "redis"),
        *("redis.default.svc", "redis.default.svc.cluster.local", "printer.local"),
        *("metadata", "metadata.google.internal", "METADATA.Google.Internal."),
        *("instance-data", "instance-data.ec2.internal", "router.lan", "x.home.arpa"),
        # Names that are none, or that somebody reads as another.
        *("", ".", "..", ".example.com", "example..com", "example.com..", "-a.com"),
        *("a-.com", "a" * 64 + ".com", "a." * 126 + "com", "exa mple.com"),
        *("127。0。0。1", "127.0.0.1", "①②⑦.⓪.⓪.①", "localho\u017ft", "ⓛocalhost"),
        *("\u212aelvin.com", "\uff45xample.com", "example.com\u3002"),
        *("example。com", "exämple.com", "example.com\u00ad", "example.com%2elocal"),
        *("127.0.0.1%00.example.com", "example.com\x00", "example.com\n"),
        *("user@example.com", "user:pass@example.com", "@example.com"),
        *("example.com@127.0.0.1", "example.com:80@127.0.0.1", "example.com\\"),
        *("127.0.0.1\\@example.com", "example.com\\.evil.org", "127.0.0.1#.a.com"),
        # Ports.
        *("example.com:22", "example.com:80", "example.com:6379", "example.com:0"),
        *("example.com:65536", "example.com:99999", "example.com:", "example.com:+443"),
        *("example.com:443:443", f"{PUBLIC}:8443", f"[{PUBLIC_V6}]:22"),
    ],
)
def test_a_url_that_leads_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(TargetRefused):
        check_url(f"https://{host}/hook")


@pytest.mark.parametrize(
    "url",
    [
        *("", "https://", "https:///hook", "https:example.com", "//example.com/"),
        *("http://example.com/", "HTTP://example.com/", "ftp://example.com/"),
        *("file:///etc/passwd", "gopher://example.com/", "javascript:alert(1)"),
        *("https:\\\\example.com", "https:/\\example.com", " https://example.com"),
        *("https://example.com ", "https://example.com/a b", "https://example.com/\n"),
        *("ht\ntps://example.com", "https://example.com/#x", "https://example.com/é"),
        *("https://example.com/\\..", "https://example.com?\r\nhost: x"),
        *(
            "http\u017f://example.com/",
            "https://example.com/\u017f",
            "https://a.com/\u212a",
        ),
        "https://example.com/" + "a" * 2048,
    ],
)
def test_a_url_that_can_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(TargetRefused):
        check_url(url)


@pytest.mark.parametrize(
    ("url", "host", "authority", "path"),
    [
        ("https://example.com", "example.com", "example.com", "/"),
        ("https://Example.COM./a?b=c", "example.com", "example.com", "/a?b=c"),
        ("HTTPS://example.com:443?x=/?", "example.com", "example.com", "/?x=/?"),
        (f"https://{PUBLIC}/a%20b", PUBLIC, PUBLIC, "/a%20b"),
        (f"https://[{PUBLIC_V6.upper()}]/", PUBLIC_V6, f"[{PUBLIC_V6}]", "/"),
        ("https://xn--bcher-kva.example.org/", *["xn--bcher-kva.example.org"] * 2, "/"),
        ("https://0x7f.example.com/", *["0x7f.example.com"] * 2, "/"),
        ("https://internal.example.com/", *["internal.example.com"] * 2, "/"),
    ],
)
def test_a_public_url_is_taken_apart(
    url: str, host: str, authority: str, path: str
) -> None:
    target = check_url(url)

    assert (target.host, target.authority, target.path) == (host, authority, path)
    assert (target.port, target.is_tls) == (443, True)


def test_the_url_is_not_in_the_refusal() -> None:
    with pytest.raises(TargetRefused) as refused:
        check_url("http://s3cret.example.com/s3cret")

    assert "s3cret" not in str(refused.value)


async def test_every_public_address_of_a_name_is_handed_out_in_order() -> None:
    addresses = await resolved("https://a.com", says(PUBLIC_V6, PUBLIC, PUBLIC))

    assert addresses == (PUBLIC_V6, PUBLIC)


@pytest.mark.parametrize(
    "inner",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", ANY),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1"),
        *("64:ff9b::a00:1", "2002:7f00:1::", "2606:2800::1%eth0", "nonsense", "127.1"),
    ],
)
@pytest.mark.parametrize("place", [0, 1], ids=["first", "last"])
async def test_one_inner_address_among_public_ones_refuses_the_name(
    inner: str, place: int
) -> None:
    addresses = [PUBLIC]
    addresses.insert(place, inner)

    with pytest.raises(TargetRefused):
        await resolved("https://a.com", says(*addresses))


async def test_nat64_of_a_public_address_is_public() -> None:
    """Hosts without IPv4 have no other way to it."""
    address = "64:ff9b::5db8:d70e"

    assert await resolved("https://a.com", says(address)) == (address,)


async def test_a_name_of_too_many_addresses_is_refused() -> None:
    with pytest.raises(TargetRefused, match="more than 32"):
        await resolved("https://a.com", says(*(f"93.184.215.{n}" for n in range(33))))


async def test_a_name_without_an_address_is_unknown() -> None:
    with pytest.raises(OSError, match="no address"):
        await resolved("https://a.com", says())


async def test_a_resolver_that_hangs_is_left_at_the_deadline() -> None:
    async def hang(host: str, port: int) -> Sequence[str]:
        del host, port
        loop = asyncio.get_running_loop()
        never: asyncio.Future[Sequence[str]] = loop.create_future()
        return await never

    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        await resolve(check_url("https://a.com"), deadline_s=loop.time(), lookup=hang)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("127.0.0.0/8", "http://127.0.0.1:8080/"),
        ("127.0.0.1", "http://127.0.0.1/"),
        ("::1", "http://[::1]:9000/"),
        ("fd00::/8", "https://[fd00::1]/"),
        ("localhost", "http://localhost:8080/"),
        ("Receiver.Internal.", "http://receiver.internal:9000/"),
        ("redis", "http://redis:9000/"),
    ],
)
async def test_what_the_operator_allows_may_be_plain_and_inside(
    entry: str, url: str
) -> None:
    allowed = Allowed([entry])

    addresses = await resolved(url, says("10.0.0.1"), allowed)

    assert len(addresses) == 1


async def test_an_allowed_network_is_enough_for_a_name_that_is_in_it() -> None:
    allowed = Allowed(["10.0.0.0/8"])

    assert await resolved("http://redis:9000", says("10.1.2.3"), allowed)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        pytest.param("https://a.com", "192.168.0.1", id="another network"),
        pytest.param("http://a.com", PUBLIC, id="plain"),
        pytest.param("https://a.com:22", PUBLIC, id="port"),
        pytest.param("https://a", PUBLIC, id="name without a dot"),
        pytest.param("https://a.com", "::ffff:10.0.0.1", id="mapped"),
    ],
)
async def test_an_allowed_network_opens_nothing_else(url: str, address: str) -> None:
    with pytest.raises(TargetRefused):
        await resolved(url, says(address), Allowed(["10.0.0.0/8"]))


async def test_an_allowed_name_opens_no_other_name() -> None:
    allowed = Allowed(["a.com"])

    with pytest.raises(TargetRefused):
        await resolved("https://b.a.com", says("10.0.0.1"), allowed)


def test_a_port_may_be_opened_to_everybody() -> None:
    assert check_url("https://a.com:8443", Allowed(ports=[443, 8443])).port == 8443


@pytest.mark.parametrize("entry", ["", "10.0.0.1/8", "*.a.com", "a b", "127.1", "é"])
def test_an_allow_list_entry_that_means_nothing_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match="no host name"):
        Allowed([entry])


async def test_names_are_looked_up_by_the_system_unless_told_otherwise() -> None:
    target = check_url("http://localhost:8080", Allowed(["localhost"]))
    deadline_s = asyncio.get_running_loop().time() + 30

    addresses = await resolve(target, Allowed(["localhost"]), deadline_s=deadline_s)

    assert set(addresses) <= {"127.0.0.1", "::1"}


@given(st.text("0123456789abcdefxXA.-", min_size=1, max_size=24))
def test_no_name_is_taken_that_the_system_reads_as_an_address(host: str) -> None:
    """`inet_aton` knows all the spellings that resolvers do."""
    try:
        target = check_url(f"https://{host}/")
    except TargetRefused:
        return

    if target.address is not None:
        assert str(target.address) == host
    else:
        with pytest.raises(OSError, match="illegal"):
            socket.inet_aton(target.host)


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_public_that_python_knows_not_to_be(
    address: IPv4Address,
) -> None:
    if find_address_problem(address) is None:
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_is_public_that_python_knows_not_to_be(
    address: IPv6Address,
) -> None:
    if find_address_problem(address) is None:
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_nat64_is_judged_by_the_address_inside(address: IPv4Address) -> None:
    outer = ip_address(int(IPv6Address("64:ff9b::")) | int(address))

    is_refused = find_address_problem(outer) is not None

    assert is_refused == (find_address_problem(address) is not None)
