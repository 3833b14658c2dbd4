"""Legacy text completions."""

from __future__ import annotations

from tests.clients.python.scenario import MODEL, check_usage, connect, same, scenario


@scenario
def completion() -> None:
    answer = connect().completions.create(model=MODEL, prompt="Say", max_tokens=60)

    same("text_completion", answer.object)
    assert answer.id.startswith("cmpl-")
    same(0, answer.choices[0].index)
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason in {"stop", "length"}
    check_usage(answer.usage)


@scenario
def completion_streamed() -> None:
    client = connect()

    *chunks, last = client.completions.create(
        model=MODEL,
        prompt="Say",
        max_tokens=60,
        stream=True,
        stream_options={"include_usage": True},
    )

    whole = client.completions.create(model=MODEL, prompt="Say", max_tokens=60)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    same(whole.choices[0].text, "".join(choice.text for choice in choices))
    same(whole.choices[0].finish_reason, choices[-1].finish_reason)
    same([], last.choices)
    check_usage(last.usage)
