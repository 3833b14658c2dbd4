"""Which URLs name a storage, and what is said of those that do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.storage.local import LocalStorage
from gateway.storage.opening import open_storage
from gateway.storage.s3 import S3Storage
from gateway.storage.s3_location import S3Location, parse_s3_location


def test_a_file_url_is_a_directory(tmp_path: Path) -> None:
    assert isinstance(open_storage(f"file://{tmp_path}/a%20b"), LocalStorage)


def test_opening_touches_nothing(tmp_path: Path) -> None:
    open_storage(f"file://{tmp_path}/objects")

    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket", S3Location("bucket")),
        ("s3://bucket/", S3Location("bucket")),
        ("s3://bucket/a/b/", S3Location("bucket", "a/b")),
        ("s3://bucket?region=eu-west-1", S3Location("bucket", region="eu-west-1")),
        (
            "s3://bucket/a?endpoint=http://minio:9000/",
            S3Location("bucket", "a", "http://minio:9000", is_path_style=True),
        ),
        (
            "s3://bucket?endpoint=https%3A%2F%2Fx.example&path_style=false",
            S3Location("bucket", endpoint="https://x.example"),
        ),
    ],
)
def test_an_s3_url_is_a_bucket(url: str, location: S3Location) -> None:
    assert location == parse_s3_location(urlsplit(url))
    assert isinstance(open_storage(url), S3Storage)


def test_a_bucket_is_in_the_path_or_in_the_host() -> None:
    endpoint = "https://x.example:9000"

    in_path = S3Location("bucket", endpoint=endpoint, is_path_style=True)
    in_host = S3Location("bucket", endpoint=endpoint)

    assert endpoint == in_path.host_endpoint
    assert "https://bucket.x.example:9000" == in_host.host_endpoint


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("", "file:///path, or s3://bucket/prefix"),
        ("/var/lib", "file:///path, or s3://bucket/prefix"),
        ("gs://bucket", "file:///path, or s3://bucket/prefix"),
        ("s3://[bucket", "not a URL"),
        ("file:objects", "absolute path"),
        ("file://objects", "absolute path"),
        ("file://host/objects", "absolute path"),
        ("file:///", "absolute path"),
        ("file:///a%00b", "absolute path"),
        ("file:///a?x=SECRET", "absolute path"),
        ("file:///a#SECRET", "no #"),
        ("s3://", "bucket's name"),
        ("s3://ab", "bucket's name"),
        ("s3://Bucket", "bucket's name"),
        ("s3://bucket:80", "bucket's name"),
        ("s3://bucket//a", "prefix"),
        ("s3://bucket/a/../b", "prefix"),
        ("s3://bucket/a%20b", "prefix"),
        ("s3://key:SECRET@bucket", "AWS_"),
        ("s3://SECRET@bucket", "AWS_"),
        ("s3://bucket?secret_access_key=SECRET", "endpoint=, region= and path_style="),
        ("s3://bucket?region=a&region=b", "each once"),
        ("s3://bucket?region", "each once"),
        ("s3://bucket?region=a/b", "region="),
        ("s3://bucket?region=", "region="),
        ("s3://bucket?path_style=yes", "true or false"),
        ("s3://bucket?endpoint=x.example", "http(s)://host"),
        ("s3://bucket?endpoint=ftp://x.example", "http(s)://host"),
        ("s3://bucket?endpoint=http://", "http(s)://host"),
        ("s3://bucket?endpoint=http://x.example/path", "http(s)://host"),
        ("s3://bucket?endpoint=http://x.example:99999", "http(s)://host"),
        ("s3://bucket?endpoint=http://key:SECRET@x.example", "http(s)://host"),
    ],
)
def test_another_url_is_refused_with_what_is_allowed(url: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=re.escape(allowed)) as refused:
        open_storage(url)

    assert "\n" not in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_a_directory_needs_no_library_for_s3(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['obstore'] = None\n"
        "from gateway.storage.opening import open_storage\n"
        f"open_storage('file://{tmp_path}')\n"
    )

    assert 0 == subprocess.run([sys.executable, "-c", script], check=True).returncode


def test_s3_without_its_library_names_the_extra() -> None:
    script = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'obstore' else find(name)\n"
        "from gateway.storage.opening import open_storage\n"
        "try: open_storage('s3://bucket')\n"
        "except ValueError as refused: print(refused)\n"
    )

    told = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )

    assert "llmtune-gateway[s3]" in told.stdout
