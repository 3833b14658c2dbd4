"""The gateway against its own `/openapi.json`: every answer is a described one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.openapi.document import openapi_document
from tests.fuzz.objects import Objects
from tests.fuzz.test_fuzz import fuzzed_gateway
from tests.gateway_under_test import MODEL

START_S: Final = 10.0
# For each operation; hypothesis adds what the schema's edges call for.
EXAMPLES: Final = 20

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]

# Where a body names a file, and what that is for.
FILES_NAMED: Final = {"input_file_id": "batch", "training_file": "fine-tune"}

DESCRIBED: Final = json.loads(openapi_document())
# Not schemathesis' own fixture loader, which does not work with pytest 9.
API: Final[Any] = schemathesis.openapi.from_dict(DESCRIBED)

for_each_operation: Callable[[Callable[..., None]], Callable[..., None]] = (
    API.parametrize()
)

hurried: Final = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

pytestmark = pytest.mark.timeout(120)


class Served:
    """Where the gateway listens, and the key that opens it."""

    url: str = ""
    key: str = ""
    objects: Objects


@contextmanager
def served_gateway(folder: Path) -> Iterator[Served]:
    """A listening gateway with an event loop of its own, for a client that blocks."""
    served, is_up, ended = Served(), threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    failures: list[BaseException] = []

    async def serve() -> None:
        async with fuzzed_gateway(folder) as gateway:
            served.url, served.key = gateway.url, gateway.key()
            loops.append(asyncio.get_running_loop())
            is_up.set()
            await ended.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as failure:  # noqa: BLE001 - told by the thread that waits
            failures.append(failure)
            is_up.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert is_up.wait(START_S), "the gateway did not start"
        assert not failures, failures
        served.objects = Objects(served.url, served.key)
        with closing(served.objects):
            yield served
    finally:
        for loop in loops:
            loop.call_soon_threadsafe(ended.set)
        thread.join(START_S)
    assert not failures, failures


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_gateway(tmp_path_factory.mktemp("gateway")) as served:
        yield served


def asked(served: Served, case: Any) -> None:
    case.call_and_validate(
        base_url=served.url,
        headers={"authorization": f"Bearer {served.key}"},
        checks=CHECKS,
    )


def on_what_is_there(case: Any, objects: Objects) -> Any:
    """The case, of a model, a file or a job that is there, so that more happens."""
    if "model" in case.path_parameters:
        case.path_parameters["model"] = MODEL
    if "id" in case.path_parameters:
        case.path_parameters["id"] = objects.of(case.path)
    body = case.body if isinstance(case.body, dict) else {}
    for name in body.keys() & {"model", "modelId", "baseModel"}:
        body[name] = MODEL
    for name in body.keys() & FILES_NAMED.keys():
        body[name] = objects.file(FILES_NAMED[name])
    return case


def test_description_is_the_one_that_is_served(served: Served) -> None:
    """
    What is tested here is what clients read.
    """
    assert DESCRIBED == httpx.get(f"{served.url}/openapi.json").json()


@for_each_operation
@hurried
def test_answer_to_whatever_is_sent_is_a_described_one(
    case: Any, served: Served
) -> None:
    """
    No request, valid or not, gets a status, type or body that is not described.
    """
    asked(served, case)


@for_each_operation
@hurried
def test_answer_of_what_is_there_is_a_described_one(case: Any, served: Served) -> None:
    """
    The same where completions happen, files are read and jobs run.
    """
    asked(served, on_what_is_there(case, served.objects))


OF_ONE_OBJECT: Final = [
    (path, method)
    for path, item in DESCRIBED["paths"].items()
    for method in item.keys() & {"get", "post", "delete"}
    if "{id}" in path
]


@pytest.mark.parametrize(("path", "method"), sorted(OF_ONE_OBJECT))
def test_object_that_is_there_is_shown_as_described(
    served: Served, path: str, method: str
) -> None:
    """Not only refused as described, of which the tests above might consist."""
    case = API[path][method].Case(path_parameters={"id": served.objects.of(path)})
    answer = case.call(
        base_url=served.url, headers={"authorization": f"Bearer {served.key}"}
    )
    case.validate_response(answer, checks=CHECKS)
    assert 200 == answer.status_code
