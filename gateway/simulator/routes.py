"""
Which path leads where: every route of LLMTune, and what each does with a body.

A route reads its request and names the model it asks; performing comes later, because
faults, unknown models and repeated Idempotency-Keys come in between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Generic, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from gateway.simulator.errors import SimulatorError, bad_request, not_found
from gateway.simulator.replies import AnyReply
from gateway.simulator.requests import decode

T = TypeVar("T")

MODELS_PREFIX: Final = "/v1/models/"
INFERENCE_SUFFIX: Final = "/inference"
JOBS_PREFIX: Final = "/v1/fine-tune/"


class Work(msgspec.Struct, frozen=True):
    """A request understood: the model it asks, if any, and how to answer it."""

    perform: Callable[[], AnyReply]
    model: str | None = None


class Route(Protocol):
    """One route; `name` is its label in the statistics."""

    @property
    def name(self) -> str: ...

    @property
    def method(self) -> Literal["GET", "POST"]: ...

    @property
    def is_open(self) -> bool:
        """Whether it answers without a key."""
        ...

    def read(self, body: bytes, parameter: str) -> Work: ...


class ReadRoute(msgspec.Struct, frozen=True):
    """A GET; `parameter` is what its path ends with, where it ends with something."""

    name: str
    answer: Callable[[str], AnyReply]
    is_open: bool = False
    method: Literal["GET"] = "GET"

    def read(self, body: bytes, parameter: str) -> Work:
        return Work(partial(self.answer, parameter))


class WriteRoute(Generic[T]):
    """A POST with a JSON body of type `T`."""

    method: Final = "POST"
    is_open: Final = False

    def __init__(
        self,
        name: str,
        body_type: type[T],
        *,
        model: Callable[[T], str | None],
        answer: Callable[[str, T], AnyReply],
        check: Callable[[T], None] | None = None,
    ) -> None:
        self.name = name
        self._decoder = msgspec.json.Decoder(body_type)
        self._model = model
        self._check = check
        self._answer = answer

    def read(self, body: bytes, parameter: str) -> Work:
        """`parameter` is the model, where the path names it."""
        request = decode(self._decoder, body)
        if self._check is not None:
            self._check(request)
        model = parameter or self._model(request)
        if not model:
            raise bad_request("modelId is required", "modelId")
        return Work(partial(self._answer, model, request), model)


Table: TypeAlias = dict[str, Route]


class Router:
    """Exact paths by table, the two routes with a parameter by prefix."""

    def __init__(self, exact: Table, inference: Route, job: Route) -> None:
        self._exact = exact
        self._inference = inference
        self._job = job

    def find(self, path: str) -> tuple[Route, str] | None:
        route = self._exact.get(path)
        if route is not None:
            return route, ""
        # A model id contains slashes, sent as they are or escaped.
        if path.startswith(MODELS_PREFIX) and path.endswith(INFERENCE_SUFFIX):
            model = path[len(MODELS_PREFIX) : -len(INFERENCE_SUFFIX)]
            return (self._inference, model) if model else None
        if path.startswith(JOBS_PREFIX) and len(path) > len(JOBS_PREFIX):
            return self._job, path.removeprefix(JOBS_PREFIX)
        return None


def no_route(path: str) -> SimulatorError:
    return not_found("", f"There is nothing at {path[:200]}.")


def wrong_method(route: Route) -> SimulatorError:
    return SimulatorError(
        405,
        "METHOD_NOT_ALLOWED",
        f"{route.name} takes {route.method} only.",
        headers=((b"allow", route.method.encode()),),
    )
