"""Methods, paths and headers that no honest client sends, and what is no HTTP."""

from __future__ import annotations

from random import Random
from typing import Final

from tests.fuzz.bodies import BODIES
from tests.fuzz.wire import request
from tests.gateway_under_test import MODEL

METHODS: Final = (
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"PATCH",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"PROPFIND",
    b"REPORT",
)
PATHS: Final = (
    b"/",
    b"/v1",
    b"/v1/",
    b"/v1/models",
    b"/v1/models/",
    b"/models",
    b"/v1/models/%b" % MODEL.encode(),
    b"/v1/models/%b" % MODEL.replace("/", "%2F").encode(),
    b"/v1/chat/completions",
    b"/v1/chat/completions/",
    b"/chat/completions",
    b"/v1/completions",
    b"/v1/embeddings",
    b"/v1/playground/inference",
    b"/v1/models/%b/inference" % MODEL.encode(),
    b"/livez",
    b"/readyz",
    b"/openapi.json",
    b"/metrics",
    b"/health",
    b"/schema",
    b"/favicon.ico",
)
INSERTS: Final = (
    b"..",
    b"/..",
    b"/../",
    b"%2e%2e",
    b"%2F",
    b"%2f%2e%2e%2f",
    b"%00",
    b"%0d%0a",
    b"%",
    b"%zz",
    b"%ff",
    b"%c3%a9",
    b"%ed%a0%80",
    b"//",
    b";",
    b"?",
    b"?a=b&a=c",
    b"#",
    b"\\",
    b"*",
    b"~",
    b"{id}",
    b"{rest:path}",
    b"/inference",
    b"/inference/inference",
    b"a" * 5000,
    b"\xc3\xa9",
    b"\xff",
)

SIMPLE: Final = b'{"model":"%b","messages":[{"role":"user","content":"Hi"}]}' % (
    MODEL.encode()
)
JSON: Final = (b"content-type", b"application/json")


def odd_path(random: Random, auth: bytes) -> bytes:
    """A request for some path, with some method."""
    path = random.choice(PATHS)
    for _ in range(random.randint(0, 3)):
        place = random.randint(1, len(path))
        path = path[:place] + random.choice(INSERTS) + path[place:]
    if random.random() < 0.05:
        path = random.choice([b"*", b"http://other/v1/models", b"v1/models", b"//"])
    headers = [(b"authorization", auth)] if random.random() < 0.8 else []
    body = SIMPLE if random.random() < 0.3 else b""
    return request(random.choice(METHODS), path, headers, body)


def odd_authorization(random: Random, auth: bytes) -> list[tuple[bytes, bytes]]:
    key = auth.removeprefix(b"Bearer ")
    wrong = (
        b"",
        b"Bearer",
        b"Bearer ",
        b"bearer " + key,
        b"Basic " + key,
        key,
        key + b"x",
        auth + b" " + key,
        b"Bearer " + random.randbytes(20).hex().encode(),
        b"Bearer \xff\xfe\xc3\xa9",
        b"Bearer " + b"k" * random.choice([10, 1000, 60_000]),
        b"\t" + auth,
    )
    headers = [(b"authorization", random.choice(wrong))]
    return headers * random.choice([1, 1, 1, 2])


ODD_HEADERS: Final = (
    (b"content-type", b"text/plain"),
    (b"content-type", b"application/json; charset=utf-16"),
    (b"content-type", b"\xff"),
    (b"content-encoding", b"gzip"),
    (b"accept", b"text/html"),
    (b"accept", b"," * 1000),
    (b"accept-encoding", b"identity;q=0"),
    (b"expect", b"100-continue"),
    (b"expect", b"200-ok"),
    (b"connection", b"keep-alive"),
    (b"connection", b"close"),
    (b"connection", b"authorization"),
    (b"upgrade", b"h2c"),
    (b"upgrade", b"websocket"),
    (b"host", b""),
    (b"host", b"other\xff"),
    (b"origin", b"https://evil.example"),
    (b"origin", b"\xff"),
    (b"range", b"bytes=0-"),
    (b"if-none-match", b"*"),
    (b"x-request-id", b"mine-1"),
    (b"x-request-id", b"a b\xff" * 50),
    (b"x-client-request-id", b"\xff" * 600),
    (b"traceparent", b"00-zz"),
    (b"tracestate", b"=" * 3000),
    (b"idempotency-key", b""),
    (b"idempotency-key", b"k" * 5000),
    (b"x-stainless-retry-count", b"-1"),
    (b"x-forwarded-for", b"1.2.3.4"),
    (b"cookie", b"a=b; " * 500),
    (b"x", b"y" * 30_000),
    (b"x" * 3000, b"y"),
    (b"x-huge", b"z" * 70_000),
)


def odd_headers(random: Random, auth: bytes) -> bytes:
    """A good request under headers that are not."""
    headers = [JSON]
    if random.random() < 0.4:
        headers += odd_authorization(random, auth)
    else:
        headers.append((b"authorization", auth))
    headers += random.choices(ODD_HEADERS, k=random.randint(0, 4))
    if random.random() < 0.02:
        headers += [(b"x-%d" % number, b"v") for number in range(3000)]
    random.shuffle(headers)
    if random.random() < 0.3:
        return request(b"GET", b"/v1/models", headers)
    return request(b"POST", random.choice([*BODIES]).encode(), headers, SIMPLE)


def chunked(random: Random, auth: bytes) -> bytes:
    """A request whose body comes in chunks of odd sizes."""
    body = b"%b" % SIMPLE if random.random() < 0.7 else random.randbytes(50)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: " + auth
    parts = [head + b"\r\ntransfer-encoding: chunked\r\n\r\n"]
    while body:
        size = random.randint(1, len(body))
        extension = random.choice([b"", b"", b";a=b", b";" + b"x" * 100])
        parts.append(b"%x%b\r\n%b\r\n" % (size, extension, body[:size]))
        body = body[size:]
    trailer = random.choice([b"", b"", b"x-trailer: 1\r\n"])
    return b"".join([*parts, b"0\r\n", trailer, b"\r\n"])


def garbage(random: Random, auth: bytes) -> bytes:
    """Bytes that break HTTP's framing in one of the known ways."""
    post = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: %b\r\n" % auth
    )
    length = b"content-length: %d\r\n" % len(SIMPLE)
    te = b"transfer-encoding: chunked\r\n"
    inner = b"GET /livez?smuggled HTTP/1.1\r\nhost: g\r\n\r\n"
    cases = (
        random.randbytes(random.randint(1, 400)),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: g\r\n\r\n",
        b"GET / HTTP/1.1 extra\r\nhost: g\r\n\r\n",
        b"get / http/1.1\r\nhost: g\r\n\r\n",
        b"FOO / HTTP/1.1\r\nhost: g\r\n\r\n",
        b"GET /livez HTTP/1.1\nhost: g\n\n",
        b"GET /livez HTTP/1.1\rhost: g\r\r",
        b"GET /\x00 HTTP/1.1\r\nhost: g\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : g\r\n\r\n",
        b"GET / HTTP/1.1\r\n host: g\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: g\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nh\x00st: g\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\n: empty\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: g",
        b"GET /" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\n",
        b"GET /livez HTTP/1.0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"\r\n\r\nGET /livez HTTP/1.1\r\nhost: g\r\n\r\n",
        post + length + te + b"\r\n0\r\n\r\n" + inner,
        post + te + length + b"\r\n" + SIMPLE + inner,
        post + te + te + b"\r\n0\r\n\r\n" + inner,
        post + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + inner,
        post + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + inner,
        post + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + inner,
        post + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + inner,
        post + length + b"content-length: 3\r\n\r\n" + SIMPLE + inner,
        post + b"content-length: -5\r\n\r\n" + SIMPLE,
        post + b"content-length: 0x10\r\n\r\n" + SIMPLE,
        post + b"content-length: +%d\r\n\r\n" % len(SIMPLE) + SIMPLE,
        post + b"content-length: %d\r\n\r\n" % 10**30 + SIMPLE,
        post + b"content-length: 99999999\r\n\r\n" + SIMPLE,
        post + length + b"\r\n" + SIMPLE[: random.randint(0, len(SIMPLE) - 1)],
        post + te + b"\r\nzz\r\nabc\r\n",
        post + te + b"\r\n-5\r\nabc\r\n",
        post + te + b"\r\n" + b"f" * 40 + b"\r\nabc\r\n",
        post + te + b"\r\n5\r\nabcdefgh\r\n0\r\n\r\n",
        post + te + b"\r\n5\r\nab",
        post + te + b"\r\n5;" + b"x" * 200_000,
        post + te + b"\r\n0\r\n" + b"t: v\r\n" * 20_000 + b"\r\n",
        post + b"upgrade: websocket\r\nconnection: upgrade\r\n\r\n" + inner,
        post + length + b"expect: 100-continue\r\n\r\n",
    )
    return random.choice(cases)
