"""Objects for requests that name one: made as a caller makes them."""

from __future__ import annotations

import json
from typing import Any, Final

import httpx

from tests.gateway_under_test import MODEL

_MESSAGES: Final = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello!"},
]
# As an input file of a batch has it, and as training data does.
_LINE: Final = {
    "custom_id": "1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": MODEL, "messages": _MESSAGES[:1]},
    "messages": _MESSAGES,
}


class Objects:
    """Makes what requests with this key may name."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {key}"}
        )

    def close(self) -> None:
        self._client.close()

    def of(self, path: str) -> str:
        """The id of a new object such as this path of the description names."""
        match path.split("/")[2]:
            case "files":
                return self.file("batch")
            case "batches":
                return self._create(
                    "/v1/batches",
                    input_file_id=self.file("batch"),
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                )
            case "fine_tuning":
                file_id = self.file("fine-tune")
                return self._create(
                    "/v1/fine_tuning/jobs", training_file=file_id, model=MODEL
                )
            case "fine-tune":
                dataset = "s3://bucket/train.jsonl"
                return self._create("/v1/fine-tune", baseModel=MODEL, dataset=dataset)
        raise ValueError(f"{path} names nothing that can be made")

    def file(self, purpose: str) -> str:
        """The id of a new file of one line."""
        content = json.dumps(_LINE).encode()
        made = self._client.post(
            "/v1/files", data={"purpose": purpose}, files={"file": ("1.jsonl", content)}
        )
        return _id_in(made)

    def _create(self, path: str, **fields: Any) -> str:
        return _id_in(self._client.post(path, json=fields))


def _id_in(made: httpx.Response) -> str:
    assert made.is_success, made.text
    told = made.json()
    found: str = told.get("id") or told["jobId"]
    return found
