"""The operator's webhooks file: what it says, and every mistake in it by its field."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from gateway.webhooks.registrations import (
    MAX_WEBHOOKS_FILE_BYTES,
    Registrations,
    WebhookProblems,
    load_webhooks_file,
)
from gateway.webhooks.signing import new_secret
from gateway.webhooks.targets import NOTHING_ALLOWED, Allowed

SECRET: Final = new_secret().reveal()
OTHER: Final = new_secret().reveal()
URL: Final = "https://hooks.example.com/s3cret-path"
ENVIRONMENT: Final = {"HOOK": SECRET, "BOTH": f"{OTHER} {SECRET}", "BAD": "s3cret-word"}


def load(
    tmp_path: Path, content: str, allowed: Allowed = NOTHING_ALLOWED
) -> Registrations:
    path = tmp_path / "webhooks.yaml"
    path.write_text(content, encoding="utf-8")
    return load_webhooks_file(path, ENVIRONMENT, allowed)


def line(**fields: str) -> str:
    usual = {"workspace": "acme", "url": URL, "secret": SECRET, "events": '["*"]'}
    known = {name: text for name, text in {**usual, **fields}.items() if text}
    return "webhooks: [{" + ", ".join(f"{n}: {t}" for n, t in known.items()) + "}]"


def problems(tmp_path: Path, content: str) -> list[str]:
    with pytest.raises(WebhookProblems) as found:
        load(tmp_path, content)
    told = str(found.value)
    assert "s3cret" not in told
    assert SECRET not in told
    return told.splitlines()


def test_every_field_is_read(tmp_path: Path) -> None:
    (webhook,) = load(tmp_path, line(events='[training.failed, "model.*"]')).all

    assert (webhook.workspace, webhook.url) == ("acme", URL)
    assert [secret.reveal() for secret in webhook.secrets] == [SECRET]
    assert webhook.events == ("training.failed", "model.*")


def test_secrets_may_be_in_the_environment_two_during_a_rotation(
    tmp_path: Path,
) -> None:
    (webhook,) = load(tmp_path, line(secret="", secret_env="BOTH")).all

    assert [secret.reveal() for secret in webhook.secrets] == [OTHER, SECRET]


def test_what_is_read_shows_neither_secret_nor_url(tmp_path: Path) -> None:
    (webhook,) = load(tmp_path, line()).all

    assert SECRET not in f"{webhook!r} {webhook}"
    assert "s3cret" not in f"{webhook!r} {webhook}"


def test_a_registration_keeps_its_id_as_long_as_its_url(tmp_path: Path) -> None:
    (one,) = load(tmp_path, line()).all
    (same,) = load(tmp_path, line(secret=OTHER, events='["a"]')).all
    (moved,) = load(tmp_path, line(url=URL + "2")).all
    (others,) = load(tmp_path, line(workspace="other")).all

    assert one.id == same.id
    assert len({one.id, moved.id, others.id}) == 3


@pytest.mark.parametrize(
    ("pattern", "event_type", "wants"),
    [
        ("*", "anything.at.all", True),
        ("training.failed", "training.failed", True),
        ("training.failed", "training.failed.twice", False),
        ("training.*", "training.failed", True),
        ("training.*", "training.a.b", True),
        ("training.*", "training", False),
        ("training.*", "trainings.failed", False),
        ("training", "training.failed", False),
    ],
)
def test_events_are_matched_by_name_or_beginning(
    tmp_path: Path, pattern: str, event_type: str, wants: bool
) -> None:
    registrations = load(tmp_path, line(events=f'["{pattern}"]'))

    assert wants == bool(registrations.targets_for("acme", event_type))


def test_events_of_no_workspace_have_receivers_of_their_own(tmp_path: Path) -> None:
    """Who hears of them does not hear of any workspace's."""
    (anybody,) = load(tmp_path, line(workspace='"*"')).all
    both = Registrations([anybody])

    assert both.targets_for("*", "usage.high") == (anybody,)
    assert both.targets_for("acme", "usage.high") == ()
    assert both.find("*", anybody.id) is anybody
    assert both.find("acme", anybody.id) is None


def test_a_workspace_hears_of_its_own_events_only(tmp_path: Path) -> None:
    registrations = load(
        tmp_path,
        f"""
        webhooks:
          - {{workspace: a, url: {URL}1, secret: {SECRET}, events: ["*"]}}
          - {{workspace: b, url: {URL}1, secret: {SECRET}, events: ["*"]}}
          - {{workspace: a, url: {URL}2, secret_env: HOOK, events: [x]}}
        """,
    )

    found = registrations.targets_for("a", "x")

    assert [webhook.url for webhook in found] == [f"{URL}1", f"{URL}2"]
    assert registrations.targets_for("c", "x") == ()
    assert len(registrations) == 3


def test_no_webhooks_are_a_file_too(tmp_path: Path) -> None:
    assert len(load(tmp_path, "webhooks: []")) == 0


def test_a_url_inside_is_taken_where_the_operator_allows_it(tmp_path: Path) -> None:
    content = line(url="http://10.0.0.7:8080/hook")

    assert len(load(tmp_path, content, Allowed(["10.0.0.0/8"]))) == 1


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"workspace": ""}, ".workspace", "is missing"),
        ({"workspace": "a/b"}, ".workspace", "must be 1 to 64"),
        ({"url": ""}, ".url", "is missing"),
        ({"url": "7"}, ".url", "must be text"),
        ({"url": "http://s3cret.example.com"}, ".url", "must begin with https://"),
        ({"url": "https://u:s3cret@a.com"}, ".url", "without credentials"),
        ({"url": '"https://10.0.0.1/s3cret"'}, ".url", "not public: private"),
        ({"url": "https://a.com:22/s3cret"}, ".url", "one of the ports 443"),
        ({"secret": ""}, "", "either secret or secret_env"),
        ({"secret_env": "HOOK"}, "", "either secret or secret_env"),
        ({"secret": "whsec_s3cret"}, ".secret", "must be whsec_ and the base64"),
        ({"secret": '" "'}, ".secret", "1 to 3 secrets"),
        ({"secret": f'"{SECRET} s3cret"'}, ".secret", "must be whsec_"),
        ({"secret": f'"{" ".join([SECRET] * 4)}"'}, ".secret", "1 to 3 secrets"),
        ({"secret": "", "secret_env": "NONE"}, ".secret_env", "that is not set"),
        ({"secret": "", "secret_env": "BAD"}, ".secret_env", "must be whsec_"),
        ({"secret": "", "secret_env": SECRET}, ".secret_env", "must be the name"),
        ({"secret": "", "secret_env": "whsec_s3cret"}, ".secret_env", "must be the"),
        ({"events": ""}, ".events", "is missing"),
        ({"events": "[]"}, ".events", "must name an event"),
        ({"events": '"*"'}, ".events", "must be a list"),
        ({"events": '["*.failed"]'}, ".events[0]", "must be an event type"),
        ({"events": '["a", "b**"]'}, ".events[1]", "must be an event type"),
        ({"events": f'["{"a" * 129}"]'}, ".events[0]", "must be an event type"),
        ({"evnts": '["*"]'}, ".evnts", "did you mean events?"),
    ],
)
def test_a_mistake_is_named_by_file_and_field(
    tmp_path: Path, fields: dict[str, str], field: str, problem: str
) -> None:
    (told,) = problems(tmp_path, line(**fields))

    assert told.startswith(f"webhooks.yaml: webhooks[0]{field}: ")
    assert problem in told


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    told = problems(tmp_path, line(workspace="a/b", url="ftp://a", events="[]"))

    assert len(told) == 3


def test_the_same_webhook_twice_is_a_mistake(tmp_path: Path) -> None:
    one = f'{{workspace: a, url: {URL}, secret: {SECRET}, events: ["*"]}}'

    (told,) = problems(tmp_path, f"webhooks: [{one}, {one}]")

    assert told.endswith("webhooks[1].url: is the same webhook as webhooks[0]")


@pytest.mark.parametrize(
    "content", ["", "[]", "webhooks: {}", "webhook: []", "a: &b c"]
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    assert problems(tmp_path, content)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, "#" * (MAX_WEBHOOKS_FILE_BYTES + 1))

    assert "at most" in told


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WebhookProblems, match=r"absent\.yaml: cannot be read"):
        load_webhooks_file(tmp_path / "absent.yaml", {}, NOTHING_ALLOWED)
