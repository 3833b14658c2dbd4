"""The storage that a URL names: `file:///path`, or `s3://bucket/prefix`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from gateway.storage.local import LocalStorage
from gateway.storage.port import Storage
from gateway.storage.s3_location import parse_s3_location

_FORMS: Final = (
    "file:///path, or s3://bucket/prefix with any of ?endpoint=, region=, path_style="
)


def open_storage(url: str) -> Storage:
    """
    The storage at a URL; nothing is read or written until it is used.

    ValueError says what is allowed, and never what was given: a wrong URL is where
    people write credentials.
    """
    parts = _split(url)
    if parts.scheme == "file":
        return _open_directory(parts)
    if parts.scheme == "s3":
        return _open_bucket(parts)
    raise ValueError(f"allowed is {_FORMS}")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        user, password = parts.username, parts.password
    except ValueError:
        raise ValueError(f"not a URL; allowed is {_FORMS}") from None
    if user is not None or password is not None:
        raise ValueError(
            "credentials are read from AWS_* variables or the pod's identity, never"
            f" from a URL; allowed is {_FORMS}"
        )
    if parts.fragment:
        raise ValueError(f"a URL of a storage has no #; allowed is {_FORMS}")
    return parts


def _open_directory(parts: SplitResult) -> LocalStorage:
    path = Path(unquote(parts.path))
    is_plain = not (parts.netloc or parts.query) and "\0" not in str(path)
    if not is_plain or not path.is_absolute() or path == Path("/"):
        raise ValueError("file: takes an absolute path, as in file:///var/lib/llmtune")
    return LocalStorage(path)


def _open_bucket(parts: SplitResult) -> Storage:
    location = parse_s3_location(parts)
    if find_spec("obstore") is None:
        raise ValueError("s3: needs the extra `s3`: pip install llmtune-gateway[s3]")
    # Only who keeps files in S3 pays for its library.
    from gateway.storage.s3 import S3Storage  # noqa: PLC0415

    return S3Storage(location)
