"""Every error: in the tree its module draws, and in the one envelope."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

import pytest

import gateway.unrouted
from gateway import errors
from gateway.errors import (
    ClientGone,
    GatewayError,
    InternalError,
    LimitExceeded,
    MethodNotAllowed,
    ModelNotFound,
    ObjectNotFound,
    UpstreamRefused,
    envelope,
    retry_headers,
)

# Whose status and code are the upstream's own.
UNDETERMINED = {"UpstreamRefused": ("4xx", "the")}
GROUPS = {"RequestError", "GatewayError"}


def subclasses(of: type[GatewayError]) -> Iterator[type[GatewayError]]:
    for each in of.__subclasses__():
        yield each
        yield from subclasses(each)


def example(kind: type[GatewayError], **fields: Any) -> GatewayError:
    if kind is ModelNotFound:
        return ModelNotFound("m")
    if kind is ObjectNotFound:
        return ObjectNotFound("File", "file-1")
    if kind is MethodNotAllowed:
        return MethodNotAllowed("PUT", "GET")
    if kind is InternalError:
        return InternalError("abc")
    if kind is UpstreamRefused:
        return UpstreamRefused("No.", status=422, code="bad", **fields)
    if kind is LimitExceeded:
        return LimitExceeded("No.", limit_code="concurrency_limit_exceeded", **fields)
    return kind("No.", **fields)


ALL = [pytest.param(kind, id=kind.__name__) for kind in subclasses(GatewayError)]


def drawn_tree() -> dict[str, tuple[str, str, str]]:
    """Each class in the module's drawing: its parent, its status and its code."""
    drawing = [
        line
        for line in (errors.__doc__ or "").splitlines()
        if line.startswith(("├", "│", "└"))
    ]
    parents, tree = ["GatewayError"], {}
    for line in drawing:
        name, *rest = line.lstrip("│├└─ ").split()
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        parents[depth:] = [name]
        parent = "GatewayError" if depth == 1 else parents[depth - 1]
        status, code = rest[:2] if rest else ("", "")
        tree[name] = (parent, status, code)
    return tree


def real_tree() -> dict[str, tuple[str, str, str]]:
    tree = {}
    for kind in subclasses(GatewayError):
        if kind.__module__ != errors.__name__:
            continue
        facts = (str(kind.status), kind.code)
        facts = UNDETERMINED.get(kind.__name__, facts)
        facts = ("", "") if kind.__name__ in GROUPS else facts
        tree[kind.__name__] = (kind.__mro__[1].__name__, *facts)
    return tree


def test_drawing_at_the_top_is_the_real_tree() -> None:
    assert real_tree() == drawn_tree()


def test_every_error_is_defined_where_it_is_drawn_or_by_who_reads_bytes() -> None:
    elsewhere = {
        kind.__name__
        for kind in subclasses(GatewayError)
        if kind.__module__ != errors.__name__
    }

    assert {gateway.unrouted.MalformedRequest.__name__} == elsewhere


@pytest.mark.parametrize("kind", ALL)
def test_error_makes_a_canonical_envelope(kind: type[GatewayError]) -> None:
    said = json.loads(envelope(example(kind)))

    assert {"error"} == said.keys()
    assert {"message", "type", "param", "code"} == said["error"].keys()
    assert all(isinstance(said["error"][k], str) for k in ("message", "type", "code"))


@pytest.mark.parametrize("kind", ALL)
def test_error_has_an_http_error_status(kind: type[GatewayError]) -> None:
    assert 400 <= example(kind).http_status < 600


@pytest.mark.parametrize("kind", ALL)
def test_error_says_what_it_is_in_a_sentence(kind: type[GatewayError]) -> None:
    assert (inspect.getdoc(kind) or "").endswith(".")


@pytest.mark.parametrize("kind", ALL)
def test_failure_of_ours_never_spends_a_request(kind: type[GatewayError]) -> None:
    is_ours = kind.status >= 500 and kind is not UpstreamRefused

    assert not (is_ours and kind.spends_request)


def test_client_that_left_is_told_nothing() -> None:
    assert not issubclass(ClientGone, GatewayError)


def test_envelope_has_param_and_details_where_they_are_known() -> None:
    error = errors.InvalidRequest("No.", param="n", details={"a": 1})

    said = json.loads(envelope(error))["error"]

    assert ("n", {"a": 1}) == (said["param"], said["details"])


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("rate_limit_exceeded", "rate_limit_error"),
        ("concurrency_limit_exceeded", "rate_limit_error"),
        ("request_exceeds_limit", "rate_limit_error"),
        ("insufficient_quota", "insufficient_quota"),
    ],
)
def test_limit_has_openais_code_and_type(code: Any, kind: str) -> None:
    error = LimitExceeded("No.", limit_code=code)

    assert (429, code, kind) == (error.http_status, error.error_code, error.error_type)


def test_model_is_shown_but_never_at_unbounded_length() -> None:
    assert len(ModelNotFound("m" * 10_000).message) < 300


@pytest.mark.parametrize("kind", ALL)
def test_a_proxy_retries_only_what_another_replica_may_answer(
    kind: type[GatewayError],
) -> None:
    """All else it would multiply: the gateway and the SDKs retry for themselves."""
    error = example(kind)
    is_retried_by_proxies = error.http_status >= 500 or error.http_status in {409, 429}
    is_told = (b"x-envoy-ratelimited", b"true") in retry_headers(error)

    assert is_told == (is_retried_by_proxies and not error.helps_elsewhere)
    elsewhere = {errors.ShuttingDown, errors.Overloaded, errors.StoreUnavailable}
    assert (kind in elsewhere) == error.helps_elsewhere


def test_refused_method_names_the_allowed_ones() -> None:
    assert ((b"allow", b"GET, HEAD"),) == MethodNotAllowed("PUT", "GET, HEAD").headers


@pytest.mark.parametrize(
    ("wait_ms", "is_retryable", "expected"),
    [
        pytest.param(None, None, {}, id="nothing-known"),
        pytest.param(None, True, {"x-should-retry": "true"}, id="retry"),
        pytest.param(None, False, {"x-should-retry": "false"}, id="no-retry"),
        pytest.param(0, None, {"retry-after": "1", "retry-after-ms": "0"}, id="zero"),
        pytest.param(1, None, {"retry-after": "1", "retry-after-ms": "1"}, id="1-ms"),
        pytest.param(
            1001, None, {"retry-after": "2", "retry-after-ms": "1001"}, id="rounded-up"
        ),
        pytest.param(
            60_000, None, {"retry-after": "60", "retry-after-ms": "60000"}, id="minute"
        ),
        pytest.param(
            60_001,
            True,
            {
                "retry-after": "61",
                "retry-after-ms": "60001",
                "x-should-retry": "false",
            },
            id="too-long-to-wait",
        ),
    ],
)
def test_retry_headers_say_how_long_and_whether(
    wait_ms: int | None, is_retryable: bool | None, expected: dict[str, str]
) -> None:
    error = errors.Overloaded("No.", retry_after_ms=wait_ms, is_retryable=is_retryable)

    sent = {name.decode(): value.decode() for name, value in retry_headers(error)}

    assert expected == sent
