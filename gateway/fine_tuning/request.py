"""`POST /v1/fine_tuning/jobs`: what LLMTune can do of it; the rest is refused."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from gateway.errors import UnsupportedParameter
from gateway.schemas.openai import Metadata
from gateway.translation.body import decode_body
from gateway.translation.routes import check_model_id

Epochs: TypeAlias = Annotated[int, Meta(ge=1, le=50)]
BatchSize: TypeAlias = Annotated[int, Meta(ge=1, le=256)]
Auto: TypeAlias = Literal["auto"]


class Hyperparameters(msgspec.Struct, frozen=True):
    """`auto`, like nothing at all, leaves the choice to LLMTune."""

    n_epochs: Epochs | Auto | None = None
    batch_size: BatchSize | Auto | None = None
    learning_rate_multiplier: float | Auto | None = None


class Supervised(msgspec.Struct, frozen=True):
    hyperparameters: Hyperparameters | None = None


class Method(msgspec.Struct, frozen=True):
    type: str
    supervised: Supervised | None = None


class TuneRequest(msgspec.Struct, frozen=True):
    """As OpenAI has it."""

    model: str
    training_file: str
    suffix: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    metadata: Metadata | None = None
    validation_file: Any = None
    seed: Any = None
    integrations: Any = None

    @property
    def epochs(self) -> int | None:
        return _chosen(self.method_hyperparameters.n_epochs)

    @property
    def batch_size(self) -> int | None:
        return _chosen(self.method_hyperparameters.batch_size)

    @property
    def method_hyperparameters(self) -> Hyperparameters:
        """The method's, or those of before there were methods."""
        supervised = self.method.supervised if self.method else None
        own = supervised.hyperparameters if supervised else None
        return own or self.hyperparameters or Hyperparameters()


_decoder: Final = msgspec.json.Decoder(TuneRequest)

_UNSUPPORTED: Final = {
    "validation_file": "LLMTune takes no validation file.",
    "seed": "LLMTune takes no seed.",
    "integrations": "LLMTune reports to no other service.",
}


def read_request(raw: bytes) -> TuneRequest:
    """The request in a body; InvalidRequest or UnsupportedParameter, by name."""
    request = decode_body(raw, _decoder)
    check_model_id(request.model)
    for name, problem in _UNSUPPORTED.items():
        if getattr(request, name) is not None:
            raise UnsupportedParameter(problem, param=name)
    if request.method is not None and request.method.type != "supervised":
        text = f"LLMTune's method is supervised; not {request.method.type[:32]!r}."
        raise UnsupportedParameter(text, param="method.type")
    _refuse_multiplier(request.hyperparameters, "hyperparameters")
    if request.method is not None and request.method.supervised is not None:
        of_method = request.method.supervised.hyperparameters
        _refuse_multiplier(of_method, "method.supervised.hyperparameters")
    return request


def _refuse_multiplier(found: Hyperparameters | None, place: str) -> None:
    if found is None or found.learning_rate_multiplier in {None, "auto"}:
        return
    raise UnsupportedParameter(
        "LLMTune takes an absolute learning rate, and of what a multiplier would be one"
        " is not known: leave it out or say 'auto', or use POST /v1/fine-tune with"
        " hyperparameters.learningRate.",
        param=f"{place}.learning_rate_multiplier",
    )


def _chosen(value: int | str | None) -> int | None:
    return value if isinstance(value, int) else None
