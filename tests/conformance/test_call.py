"""What may not be asked of `conformance`: told in a line, and as a document."""

from __future__ import annotations

import argparse
import json
from typing import Final

import pytest

from gateway.cli import main
from gateway.conformance import cli
from gateway.conformance.call import KEY_VARIABLE

URL: Final = ("--base-url", "http://127.0.0.1:9")


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(arguments)


WRONG_URLS: Final = (
    ("acme", "'acme' is no http"),
    ("http://", "is no http"),
    ("ftp://127.0.0.1", "is no http"),
    ("http://[::1", "Invalid port"),
    ("http://127.0.0.1:acme", "Invalid port"),
    ("http://127.0.0.1:99999", "a port is from 1 to 65535"),
    ("http://127.0.0.1:0", "a port is from 1 to 65535"),
    ("http://127.0.0.1/v1?x=1", "has a query or fragment"),
    ("http://127.0.0.1/#x", "has a query or fragment"),
    ("http://127.0.0.1/\n/x", "Invalid non-printable"),
)
WRONG_CALLS: Final = [
    (("--key", "k"), "--base-url is missing"),
    (URL, "no key: set LLMTUNE_GATEWAY_KEY"),
    ((*URL, "--key", "kéy"), "--key: printable ASCII"),
    ((*URL, "--key", "k", "--only", "speed"), "--only: 'speed' is none of"),
    ((*URL, "--key", "k", "--seconds", "1"), "--seconds: '1' is not allowed"),
    ((*URL, "--key", "k", "--seconds", "9" * 5000), "is not allowed, give 5 to"),
    ((*URL, "--key", "k", "--concurrency", "x"), "--concurrency: 'x' is not"),
    ((*URL, "--key", "k", "--on-skip", "x"), "--on-skip: 'x' is none of incomplete"),
    ((*URL, "--key", "k", "--model", "m"), "/v1/limits does not answer"),
    *((("--key", "k", "--base-url", url), complaint) for url, complaint in WRONG_URLS),
]


@pytest.mark.parametrize(("arguments", "complaint"), WRONG_CALLS)
def test_a_wrong_call_is_told_in_one_line(
    arguments: tuple[str, ...],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names the option and what is allowed, and the exit code is 2."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    code = cli.run(parsed(*arguments))

    told = capsys.readouterr()
    assert (2, "") == (code, told.out)
    assert complaint in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(("arguments", "complaint"), WRONG_CALLS)
def test_a_wrong_call_is_a_document_too(
    arguments: tuple[str, ...],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A script that parses standard output can do so however it ends."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    code = cli.run(parsed(*arguments, "--json"))

    told = capsys.readouterr()
    document = json.loads(told.out)
    assert (2, 2) == (code, document["exit_code"])
    assert ("conformance", "error") == (document["object"], document["verdict"])
    assert complaint in document["error"]
    assert document["checks"] == []
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--speed",), "unrecognized arguments: --speed"),
        (("--key",), "argument --key: expected one argument"),
        (("extra",), "unrecognized arguments: extra"),
    ],
)
def test_what_argparse_refuses_is_a_document_too(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the whole command line, which makes the parser and reads unknown options."""
    with pytest.raises(SystemExit) as ended:
        main(["conformance", "--json", *arguments])

    told = capsys.readouterr()
    assert ended.value.code == 2
    assert complaint == json.loads(told.out)["error"]
    assert told.err == f"llmtune-gateway conformance: {complaint}\n"


@pytest.mark.parametrize(
    "again",
    ["http://127.0.0.1:9", "http://127.0.0.1:9/v1/", "HTTP://127.0.0.1:9//", " {} "],
)
def test_one_replica_given_twice_would_agree_with_itself(
    again: str, capsys: pytest.CaptureFixture[str]
) -> None:
    again = again.format(URL[1])

    code = cli.run(parsed(*URL, "--base-url", again, "--key", "k"))

    assert code == 2
    assert "http://127.0.0.1:9 is given twice" in capsys.readouterr().err


def test_a_password_in_a_url_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It would replace the key, and end up in the output."""
    url = "http://me:hunter2@127.0.0.1:9"

    code = cli.run(parsed("--base-url", url, "--key", "k", "--json"))

    told = capsys.readouterr()
    assert code == 2
    assert "hunter2" not in told.out + told.err


def test_a_broken_environment_accuses_nobody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 is the deployment's; what nobody foresaw is exit code 2, untraced."""
    monkeypatch.setenv("HTTP_PROXY", "gopher://127.0.0.1:9")

    code = cli.run(parsed(*URL, "--key", "k"))

    told = capsys.readouterr().err
    assert code == 2
    assert "nothing was judged: ValueError: Unknown scheme for proxy" in told
    assert told.count("\n") == 1
