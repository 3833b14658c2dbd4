"""Which bucket is ours and where it is, as a URL tells; never who we are there."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

from gateway.storage.port import require_folder

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_OPTIONS: Final = frozenset({"endpoint", "region", "path_style"})
_TRUTHS: Final = {"true": True, "false": False}


class S3Location(msgspec.Struct, frozen=True):
    """A bucket, and the folder of it that is ours; no credentials."""

    bucket: str
    prefix: str = ""
    # None: AWS itself.
    endpoint: str | None = None
    region: str | None = None
    # Whether the bucket is in the path of a URL; else it is in the host's name.
    is_path_style: bool = False

    @property
    def is_plain_http(self) -> bool:
        return self.endpoint is not None and self.endpoint.startswith("http://")

    @property
    def host_endpoint(self) -> str:
        """The endpoint, with the bucket in its host where it is not in the path."""
        endpoint = self.endpoint or ""
        if self.is_path_style:
            return endpoint
        scheme, _, host = endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{host}"


def parse_s3_location(parts: SplitResult) -> S3Location:
    """The bucket that a URL names; ValueError says what is allowed."""
    if not _BUCKET.fullmatch(parts.netloc):
        raise ValueError("s3: a bucket's name is 3 to 63 of a-z, 0-9, dots and hyphens")
    try:
        prefix = require_folder(parts.path.removeprefix("/"))
    except ValueError:
        raise ValueError(
            "s3: a prefix is segments of [A-Za-z0-9._-], parted by single slashes"
        ) from None
    options = _options_of(parts.query)
    endpoint = _endpoint(options.get("endpoint"))
    return S3Location(
        parts.netloc,
        prefix,
        endpoint,
        _region(options.get("region")),
        # Few servers but AWS's have a host name for every bucket.
        _path_style(options.get("path_style"), default=endpoint is not None),
    )


def _options_of(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        pairs = [("", "")]
    options = dict(pairs)
    if len(options) != len(pairs) or options.keys() - _OPTIONS:
        raise ValueError("s3: takes endpoint=, region= and path_style=, each once")
    return options


def _endpoint(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        is_server = parts.scheme in {"http", "https"} and bool(parts.hostname)
        # Reading the port checks it.
        is_bare = parts.port != 0 and text.rstrip("/") == (
            f"{parts.scheme}://{parts.netloc}"
        )
    except ValueError:
        is_server = is_bare = False
    if not is_server or not is_bare or "@" in text:
        raise ValueError("s3: endpoint= takes http(s)://host or http(s)://host:port")
    return text.rstrip("/")


def _region(text: str | None) -> str | None:
    if text is not None and not _REGION.fullmatch(text):
        raise ValueError("s3: region= takes a name, as in eu-central-1")
    return text


def _path_style(text: str | None, *, default: bool) -> bool:
    if text is None:
        return default
    if text not in _TRUTHS:
        raise ValueError("s3: path_style= takes true or false")
    return _TRUTHS[text]
