"""The form parser: what clients send, any chunking of it, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.storage.multipart import (
    Field,
    FilePart,
    FormBounds,
    FormTooLarge,
    MalformedForm,
    parts,
)

BOUNDS = FormBounds(max_bytes=1024 * 1024)
TYPE = b"multipart/form-data; boundary=XyZ"


async def streamed(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def collect(
    content_type: bytes, chunks: Iterable[bytes], bounds: FormBounds = BOUNDS
) -> list[tuple[Any, ...]]:
    """The parts in their order, the file with all its bytes."""
    found: list[tuple[Any, ...]] = []
    async for part in parts(content_type, streamed(chunks), bounds):
        if isinstance(part, Field):
            found.append((part.name, part.value))
        else:
            body = b"".join([piece async for piece in part])
            found.append((part.name, part.filename, part.content_type, body))
    return found


def part(disposition: str, body: bytes, *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n"


def form(*written: bytes, end: bytes = b"--XyZ--\r\n") -> bytes:
    return b"".join(b"--XyZ\r\n" + each for each in written) + end


FILE = part('name="file"; filename="a.jsonl"', b"{}")
PURPOSE = part('name="purpose"', b"batch")


async def test_what_the_openai_sdk_sends_is_read_in_order() -> None:
    fields = {
        "purpose": "batch",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
    }
    file = ("a.jsonl", b"{}\r\n" * 9000, "application/octet-stream")
    request = httpx.Request("POST", "http://x/", data=fields, files={"file": file})

    found = await collect(request.headers["content-type"].encode(), [request.read()])

    assert [*fields.items(), ("file", *file[::2], file[1])] == found


async def test_what_curl_sends_may_have_the_file_first() -> None:
    boundary = "-" * 24 + "QkSmdG5ZXhPYbXjA2oKkLr"
    body = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="a b.jsonl"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
        "{}\n\r\n"
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="purpose"\r\n\r\n'
        "batch\r\n"
        f"--{boundary}--\r\n"
    )

    found = await collect(
        f"multipart/form-data; boundary={boundary}".encode(), [body.encode()]
    )

    file = ("file", "a b.jsonl", "application/octet-stream", b"{}\n")
    assert [file, ("purpose", "batch")] == found


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        pytest.param('filename="ä.jsonl"', "ä.jsonl", id="UTF-8, as today"),
        pytest.param('filename="a%22b"', 'a"b', id="a quote, as browsers"),
        pytest.param('filename="a\\"b"', 'a"b', id="a quote, as curl of old"),
        pytest.param("filename=a.jsonl", "a.jsonl", id="a token"),
        pytest.param("filename*=utf-8''%C3%A4.x", "ä.x", id="RFC 8187"),
        pytest.param("filename=\"a\"; filename*=UTF-8'de'%C3%A4", "ä", id="both"),
        pytest.param("filename=\"; filename*=utf-8''b\"", "; filename*=utf-8''b"),
    ],
)
async def test_a_filename_is_read(disposition: str, filename: str) -> None:
    body = form(part(f'name="file"; {disposition}', b"{}"))

    assert [("file", filename, None, b"{}")] == await collect(TYPE, [body])


PIECES = st.sampled_from(
    [b"\r", b"\n", b"--", b"\r\n--XyZ", b"\r\n--Xy", b"--XyZ--", b"a", b"\0", b"\xff"]
)
# Nothing that ends a part; what comes close is what is looked for.
CONTENTS = st.lists(PIECES, max_size=12).map(
    lambda pieces: b"".join(pieces).replace(b"\r\n--XyZ", b"\r\n--XyX")
)
TEXTS = st.lists(st.sampled_from(["ä", "\r\n", "-", "--XyZ", "x"]), max_size=8).map(
    lambda pieces: "".join(pieces).replace("\r\n--XyZ", "\r\n--XyX")
)


def cut(whole: bytes, sizes: list[int]) -> list[bytes]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(whole[at : at + size])
        at += size
    return [*chunks, whole[at:]]


@given(
    before=st.lists(TEXTS, max_size=3),
    content=CONTENTS,
    after=st.lists(TEXTS, max_size=3),
    sizes=st.lists(st.integers(0, 40), max_size=60),
)
async def test_any_chunking_gives_the_same_parts(
    before: list[str], content: bytes, after: list[str], sizes: list[int]
) -> None:
    def fields(texts: list[str]) -> list[bytes]:
        return [part('name="t"', text.encode()) for text in texts]

    file = part('name="file"; filename="a"', content)
    body = form(*fields(before), file, *fields(after))

    whole = await collect(TYPE, [body])
    chunked = await collect(TYPE, cut(body, sizes))
    by_byte = await collect(TYPE, cut(body, [1] * len(body)))

    assert ("file", "a", None, content) in whole
    assert len(before) + 1 + len(after) == len(whole)
    assert whole == chunked == by_byte


@given(
    body=st.lists(
        st.one_of(
            st.sampled_from(
                [FILE, PURPOSE, b"--XyZ", b"\r\n", b"--", b": ", b'name="']
            ),
            st.binary(max_size=8),
        ),
        max_size=20,
    ).map(b"".join),
    sizes=st.lists(st.integers(0, 40), max_size=20),
)
async def test_garbage_is_a_malformed_form_and_nothing_else(
    body: bytes, sizes: list[int]
) -> None:
    for whole in (body, b"--XyZ\r\n" + body, b"--XyZ\r\n" + body + b"\r\n--XyZ--"):
        try:
            await collect(TYPE, cut(whole, sizes))
        except MalformedForm as malformed:
            assert malformed.reason == str(malformed) != ""  # noqa: PT017


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"application/json",
        b"multipart/mixed; boundary=XyZ",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary=""',
        b'multipart/form-data; boundary="a\nb"',
        b"multipart/form-data; boundary=" + b"b" * 71,
        b"multipart/form-data; boundary=\xe4",
    ],
)
async def test_another_content_type_is_refused(content_type: bytes) -> None:
    with pytest.raises(MalformedForm, match="content type"):
        await collect(content_type, [form(FILE)])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "ends before", id="nothing"),
        pytest.param(b"--Xy", "ends before", id="half a boundary"),
        pytest.param(form(FILE, end=b""), "ends before", id="no end"),
        pytest.param(form(FILE)[:-4], "ends before", id="half an end"),
        pytest.param(form(FILE)[:50], "ends before", id="half a header"),
        pytest.param(b"hello" + form(FILE), "begin with", id="a preamble"),
        pytest.param(form(FILE).replace(b"\r\n", b"\n"), "line break", id="no CR"),
        pytest.param(form(FILE, FILE), "one file", id="two files"),
        pytest.param(form(part("a=b", b"")), "no name", id="no name"),
        pytest.param(form(part('name=""', b"")), "no name", id="an empty name"),
        pytest.param(form(part('name="file"', b"{}")), "no filename", id="no filename"),
        pytest.param(
            form(part('name="file"; filename=""', b"")), "empty", id="empty filename"
        ),
        pytest.param(
            form(part('name="file"; filename="a%0D%0Ab"', b"")),
            "control",
            id="a line break in a filename",
        ),
        pytest.param(
            form(part("name=file; filename*=utf-8''%FF", b"")),
            "empty",
            id="RFC 8187, not UTF-8",
        ),
        pytest.param(
            form(part("name=file; filename*=latin-1''%E4", b"")),
            "empty",
            id="RFC 8187, another charset",
        ),
        pytest.param(
            form(part('name="other"; filename="a"', b"")), "only `file`", id="other"
        ),
        pytest.param(form(part('name="a"', b"\xff")), "UTF-8", id="not UTF-8"),
        pytest.param(
            form(b'Content-Disposition: form-data; name="\xff"\r\n\r\n\r\n'),
            "decode",
            id="a name that is not UTF-8",
        ),
        pytest.param(form(b"\r\nbody\r\n"), "isposition", id="no headers"),
        pytest.param(form(b"garbage\r\n\r\nbody\r\n"), "header", id="no colon"),
        pytest.param(
            form(b"Content-Disposition: attachment; name=a\r\n\r\n\r\n"),
            "Wrong type",
            id="an attachment",
        ),
        pytest.param(
            form(part("name=a", b"", "Content-Type: multipart/mixed; boundary=b")),
            "form itself",
            id="nested",
        ),
        pytest.param(
            form(part("name=a", b"", "Content-Transfer-Encoding: base64")),
            "transfer encoding",
            id="base64",
        ),
        pytest.param(
            form(part("name=a", b"", "Content-Disposition: form-data; name=b")),
            "twice",
            id="two dispositions",
        ),
    ],
)
async def test_a_malformed_form_is_refused(body: bytes, reason: str) -> None:
    for chunks in ([body], cut(body, [1] * len(body))):
        with pytest.raises(MalformedForm, match=reason):
            await collect(TYPE, chunks)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(form(*[PURPOSE] * 33), "count", id="parts"),
        pytest.param(form(part("name=a", b"x" * 101)), "more than 100", id="a field"),
        pytest.param(form(part("name=a", b"", "X: " + "y" * 999)), "header", id="line"),
        pytest.param(
            form(part("name=a", b"", *[f"X-{n}: {'y' * 60}" for n in range(7)])),
            "too long",
            id="lines",
        ),
        pytest.param(
            form(part("name=a", b"", *[f"X-{n}: y" for n in range(8)])),
            "header count",
            id="headers",
        ),
    ],
)
async def test_a_bound_is_kept(body: bytes, reason: str) -> None:
    bounds = FormBounds(max_bytes=9999, max_header_bytes=400, max_field_bytes=100)

    with pytest.raises(MalformedForm, match=reason):
        await collect(TYPE, [body], bounds)


async def test_the_whole_is_bounded_with_what_follows_the_form() -> None:
    body = form(FILE)

    assert await collect(TYPE, [body], FormBounds(max_bytes=len(body)))
    with pytest.raises(FormTooLarge, match=f"at most {len(body) - 1} bytes"):
        await collect(TYPE, [body], FormBounds(max_bytes=len(body) - 1))
    with pytest.raises(FormTooLarge):
        await collect(TYPE, [body, b"x"], FormBounds(max_bytes=len(body)))


async def test_thirty_two_parts_of_the_longest_field_are_taken() -> None:
    longest = part("name=a", b"x" * 64 * 1024)

    found = await collect(TYPE, [form(*[longest] * 32)], FormBounds(max_bytes=2**22))

    assert [("a", "x" * 64 * 1024)] * 32 == found


async def test_no_chunk_is_read_before_its_bytes_are_asked_for() -> None:
    asked = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal asked
        opening, _, _ = form(FILE).partition(b"{}")
        for chunk in (opening, *[b"x" * 1000] * 5, b"\r\n--XyZ--"):
            asked += 1
            yield chunk

    file = await anext(parts(TYPE, chunks(), BOUNDS))
    assert isinstance(file, FilePart)

    assert 1 == asked
    body = aiter(file)
    for number in range(5):
        assert b"x" * 1000 == await anext(body)
        assert 2 + number == asked


async def test_a_file_that_is_not_read_is_read_away() -> None:
    seen = [
        each.name async for each in parts(TYPE, streamed([form(FILE, PURPOSE)]), BOUNDS)
    ]

    assert ["file", "purpose"] == seen


async def test_a_client_that_leaves_is_no_malformed_form() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield form(FILE)[:80]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        async for _ in parts(TYPE, chunks(), BOUNDS):
            pass
