"""The model list, and one model of it."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from openai import NotFoundError

from tests.clients.python.scenario import MODEL, caught, connect, same, scenario


@scenario
def models_list() -> None:
    client = connect()

    models = {model.id: model for model in client.models.list()}

    assert {MODEL, "llmtune-mini"} <= set(models)
    same("model", models[MODEL].object)
    same("meta-llama", models[MODEL].owned_by)
    assert isinstance(models[MODEL].created, int)


@scenario
def models_retrieve() -> None:
    # 1.109.1 sends the slash raw, the others escape it.
    model = connect().models.retrieve(MODEL)

    same(MODEL, model.id)


@scenario
def models_retrieve_unknown() -> None:
    client = connect()

    error = caught(NotFoundError, client.models.retrieve, "acme/nothing")

    same("model_not_found", error.code)
    assert "`acme/nothing`" in error.message
