"""
Who wants to hear of what: the operator's `webhooks.yaml`.

Every mistake is named as `file: field: problem`, and no problem quotes a secret or a
URL, for many a receiver's URL is its password.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from gateway.secret import Secret
from gateway.webhooks.signing import find_secret_problem
from gateway.webhooks.targets import Allowed, TargetRefused, check_url
from policies.names import find_workspace_problem
from policies.plans import Strict
from policies.strict_fields import TextRule, check_fields
from policies.strict_yaml import FileProblems, Findings, YamlValue, read_mapping

# About 4,000 webhooks.
MAX_WEBHOOKS_FILE_BYTES: Final = 1024 * 1024
# Two during a rotation, and one to spare. Each is one more signature on every message.
MAX_SECRETS: Final = 3
ID_CHARS: Final = 16
# In the place of a workspace: events that LLMTune tells of none.
ANY: Final = "*"

_VARIABLE_FORM: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PATTERN_FORM: Final = re.compile(r"\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?")
MAX_PATTERN_CHARS: Final = 128


class WebhookProblems(FileProblems):
    """What is wrong with a webhooks file; no webhook was taken."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """One receiver of one workspace's events."""

    workspace: str
    url: str
    # The first is the newest; all sign, so that receivers can change over.
    secrets: tuple[Secret, ...]
    events: tuple[str, ...]

    @property
    def id(self) -> str:
        """What a receiver's state is kept under; the same as long as its URL is."""
        named = f"{self.workspace}\n{self.url}".encode()
        return hashlib.sha256(named).hexdigest()[:ID_CHARS]

    def __repr__(self) -> str:
        return f"Registration({self.id}, workspace={self.workspace!r})"

    def wants(self, event_type: str) -> bool:
        return any(_matches(pattern, event_type) for pattern in self.events)


class Registrations:
    """The webhooks of one file."""

    def __init__(self, registrations: Iterable[Registration] = ()) -> None:
        self.all = tuple(registrations)
        self._by_workspace: dict[str, list[Registration]] = {}
        for registration in self.all:
            self._by_workspace.setdefault(registration.workspace, []).append(
                registration
            )

    def __len__(self) -> int:
        return len(self.all)

    def find(self, workspace: str, registration_id: str) -> Registration | None:
        """One of a workspace's, by its id; None if it is not registered any more."""
        registered = self._by_workspace.get(workspace, ())
        return next((each for each in registered if each.id == registration_id), None)

    def targets_for(self, workspace: str, event_type: str) -> tuple[Registration, ...]:
        """Who is told of such an event, in the file's order."""
        registered = self._by_workspace.get(workspace, ())
        return tuple(target for target in registered if target.wants(event_type))


def load_webhooks_file(
    path: Path, environment: Mapping[str, str], allowed: Allowed
) -> Registrations:
    """
    Read a webhooks file: `webhooks`, and below it a list of `workspace`, `url`,
    `events`, and `secret` or `secret_env`, the variable that holds it.

    Several secrets are separated by spaces. Raises WebhookProblems with all mistakes.
    """
    findings = Findings(path.name)
    raw = read_mapping(path, max_bytes=MAX_WEBHOOKS_FILE_BYTES, findings=findings)
    if raw is not None:
        check_webhooks(raw, environment, allowed, findings)
    if findings.problems:
        raise WebhookProblems(findings.problems)
    read = msgspec.convert(raw, _WebhooksFile)
    return Registrations(_registered(webhook, environment) for webhook in read.webhooks)


def check_webhooks(
    raw: Mapping[str, YamlValue],
    environment: Mapping[str, str],
    allowed: Allowed,
    findings: Findings,
) -> None:
    """Add a problem for every mistake in a mapping of the file's form."""
    rules = {**_TEXT_RULES, "url": _url_rule(allowed)}
    check_fields(raw, _WebhooksFile, "", findings, rules=rules)
    seen: dict[tuple[str, str], int] = {}
    for index, webhook in _mappings(raw.get("webhooks")):
        field = f"webhooks[{index}]"
        _check_secret(webhook, environment, field, findings)
        if webhook.get("events") == []:
            findings.add(f"{field}.events", 'must name an event, or be ["*"]')
        first = seen.setdefault(_target_of(webhook, index), index)
        if first != index:
            findings.add(f"{field}.url", f"is the same webhook as webhooks[{first}]")


class _Webhook(Strict, frozen=True, kw_only=True):
    workspace: str
    url: str
    events: tuple[str, ...]
    secret: str | None = None
    secret_env: str | None = None


class _WebhooksFile(Strict, frozen=True, kw_only=True):
    webhooks: tuple[_Webhook, ...]


def _registered(webhook: _Webhook, environment: Mapping[str, str]) -> Registration:
    text = webhook.secret or environment[webhook.secret_env or ""]
    return Registration(
        workspace=webhook.workspace,
        url=webhook.url,
        secrets=Secret(text).split(),
        events=webhook.events,
    )


def _mappings(items: YamlValue) -> Iterator[tuple[int, dict[str, YamlValue]]]:
    for index, item in enumerate(items if isinstance(items, list) else []):
        if isinstance(item, dict):
            yield index, item


def _target_of(webhook: Mapping[str, YamlValue], index: int) -> tuple[str, str]:
    workspace, url = webhook.get("workspace"), webhook.get("url")
    if isinstance(workspace, str) and isinstance(url, str):
        return workspace, url
    return "", str(index)


def _check_secret(
    webhook: Mapping[str, YamlValue],
    environment: Mapping[str, str],
    field: str,
    findings: Findings,
) -> None:
    secret, variable = webhook.get("secret"), webhook.get("secret_env")
    if (secret is None) == (variable is None):
        findings.add(field, "must have either secret or secret_env")
    elif isinstance(variable, str) and not _find_variable_problem(variable):
        text = environment.get(variable)
        if text is None:
            findings.add(f"{field}.secret_env", "names a variable that is not set")
        elif (problem := _find_secrets_problem(text)) is not None:
            findings.add(f"{field}.secret_env", f"names a variable that {problem}")


def _find_secrets_problem(text: str) -> str | None:
    secrets = text.split()
    if not 1 <= len(secrets) <= MAX_SECRETS:
        return f"must hold 1 to {MAX_SECRETS} secrets, separated by spaces"
    return next(filter(None, map(find_secret_problem, secrets)), None)


def _find_variable_problem(text: str) -> str | None:
    # Not quoted anywhere: it may be the secret itself, in the wrong field.
    if _VARIABLE_FORM.fullmatch(text) and not text.startswith("whsec_"):
        return None
    return "must be the name of an environment variable"


def _find_pattern_problem(text: str) -> str | None:
    if len(text) <= MAX_PATTERN_CHARS and _PATTERN_FORM.fullmatch(text):
        return None
    return "must be an event type, one such as training.*, or *"


def _find_place_problem(workspace: str) -> str | None:
    return None if workspace == ANY else find_workspace_problem(workspace)


def _url_rule(allowed: Allowed) -> TextRule:
    def find_problem(url: str) -> str | None:
        try:
            check_url(url, allowed)
        except TargetRefused as problem:
            return str(problem)
        return None

    return find_problem


def _matches(pattern: str, event_type: str) -> bool:
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type


_TEXT_RULES: Final[dict[str, TextRule]] = {
    "workspace": _find_place_problem,
    "events": _find_pattern_problem,
    "secret": _find_secrets_problem,
    "secret_env": _find_variable_problem,
}
