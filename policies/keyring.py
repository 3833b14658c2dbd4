"""
The API keys a gateway accepts, known only by their SHA-256 digests.

The keys are 256 random bits, so a plain digest cannot be reversed and needs no salt.
Nothing here returns, logs or quotes a key; the only short form is `key_id`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from policies.ledger import KeyScope
from policies.limit_fields import check_limits, spell_out_concurrency
from policies.model_patterns import find_pattern_problem
from policies.names import find_plan_name_problem, find_workspace_problem
from policies.plan_files import PlanBook
from policies.plans import KeyLimits, Strict
from policies.strict_fields import TextRule, check_fields
from policies.strict_yaml import (
    FileProblems,
    Findings,
    Problem,
    YamlValue,
    read_mapping,
)

# Lets secret scanners find a leaked key, and people tell it from an upstream's.
KEY_PREFIX: Final = "llmtune_gw_"
KEY_RANDOM_BYTES: Final = 32
# The CRC-32 of the random part in base 62, with which a key ends as GitHub's tokens do.
# No secret, for anybody can compute it: it tells typing errors and random guesses from
# keys without asking the store.
KEY_CHECKSUM_CHARS: Final = 6
# Shown in logs and lists: 32 bits tell a deployment's keys apart and reveal nothing.
KEY_ID_CHARS: Final = 8
# About 30,000 keys, read in under 3 s. More belong in the store, not in a file.
MAX_KEYS_FILE_BYTES: Final = 4 * 1024 * 1024
MAX_KEY_NAME_CHARS: Final = 100
# Of the digest, where a key's own limits count what it used.
KEY_SCOPE_CHARS: Final = 16

_BASE_62: Final = string.digits + string.ascii_letters
_NEW_KEY_FORM: Final = re.compile(
    rf"{KEY_PREFIX}([A-Za-z0-9_-]{{43}})([A-Za-z0-9]{{{KEY_CHECKSUM_CHARS}}})"
)
_DIGEST_FORM: Final = re.compile(r"[0-9a-f]{64}")
# Our keys, and other makers' where they are too long to be a name such as sk-telecom.
_KEY_FORM: Final = re.compile(rf"{KEY_PREFIX}.*|(Bearer |sk[-_]).{{20,}}", re.DOTALL)


class KeyProblems(FileProblems):
    """What is wrong with a keys file; no key was taken."""


class KeyRecord(Strict, frozen=True, kw_only=True):
    """Whose a key is and what it may do."""

    sha256: str
    workspace: str
    plan: str
    name: str | None = None
    # Narrows the plan's models; None leaves them as they are.
    models: tuple[str, ...] | None = None
    # Held to these besides the plan's.
    limits: KeyLimits | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None

    @property
    def key_id(self) -> str:
        """The only form of a key that is ever shown."""
        return self.sha256[:KEY_ID_CHARS]

    @property
    def scope_id(self) -> str:
        """Where what the key used is counted."""
        return self.sha256[:KEY_SCOPE_CHARS]

    @property
    def key_scope(self) -> KeyScope | None:
        """What the ledger holds the key to; None for a key without limits."""
        if self.limits is None or not self.limits.limits:
            return None
        return KeyScope(self.scope_id, self.limits)

    def is_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at


class Keyring:
    """The records of one keys file, found by the key a client presents."""

    def __init__(self, records: Iterable[KeyRecord] = (), *, source: str = "") -> None:
        self.records = tuple(records)
        # The file they came from, so that later checks can name it.
        self.source = source
        self._by_digest = {record.sha256: record for record in self.records}

    def __len__(self) -> int:
        return len(self.records)

    def find(self, api_key: str, now: datetime) -> KeyRecord | None:
        """The record of a key that is known and has not expired."""
        record = self.lookup(api_key)
        return None if record is None or record.is_expired(now) else record

    def lookup(self, api_key: str) -> KeyRecord | None:
        """The record of a key that is known, even if it has expired."""
        return self.lookup_digest(digest_of(api_key))

    def lookup_digest(self, digest: str) -> KeyRecord | None:
        """The same for a key of which only the digest is at hand."""
        record = self._by_digest.get(digest)
        # How long the dictionary took says something about a digest, which its attacker
        # cannot steer towards a key; this comparison says nothing about either.
        if record is None or not hmac.compare_digest(record.sha256, digest):
            return None
        return record


def digest_of(api_key: str) -> str:
    """The form in which a key is kept."""
    # A header can carry what is no text; it must be an unknown key, not an error.
    return hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).hexdigest()


def new_api_key() -> str:
    """A key to hand out once; keep only its digest."""
    random_part = secrets.token_urlsafe(KEY_RANDOM_BYTES)
    return KEY_PREFIX + random_part + _checksum_of(random_part)


def has_checksum(api_key: str) -> bool:
    """Whether this may be a key that `new_api_key` made; older ones had no checksum."""
    found = _NEW_KEY_FORM.fullmatch(api_key)
    return found is not None and _checksum_of(found[1]) == found[2]


def _checksum_of(text: str) -> str:
    value, digits = zlib.crc32(text.encode("ascii")), ""
    for _ in range(KEY_CHECKSUM_CHARS):
        value, digit = divmod(value, len(_BASE_62))
        digits = _BASE_62[digit] + digits
    return digits


def load_keys_file(path: Path) -> Keyring:
    """
    Read a keys file: `keys`, and below it a list of what `KeyRecord` holds.

    Raises KeyProblems with all its mistakes.
    """
    findings = Findings(path.name)
    raw = read_mapping(path, max_bytes=MAX_KEYS_FILE_BYTES, findings=findings)
    if raw is not None:
        check_keys(raw, findings)
    if findings.problems:
        raise KeyProblems(findings.problems)
    read = msgspec.convert(raw, _KeysFile)
    return Keyring(read.keys, source=path.name)


def check_keys(raw: Mapping[str, YamlValue], findings: Findings) -> None:
    """Add a problem for every mistake in a mapping of the keys file's form."""
    _check_key_limits(raw.get("keys"), findings)
    check_fields(raw, _KeysFile, "", findings, rules=_TEXT_RULES)
    _check_digests_differ(raw.get("keys"), findings)


def find_unknown_plans(keyring: Keyring, book: PlanBook) -> list[Problem]:
    """A problem for each key whose plan is not in the book."""
    names = book.names
    problem = f"is not a plan; there are {', '.join(names)}"
    return [
        Problem(keyring.source, f"keys[{index}].plan", problem)
        for index, record in enumerate(keyring.records)
        if record.plan not in names
    ]


class _KeysFile(Strict, frozen=True, kw_only=True):
    keys: tuple[KeyRecord, ...]


def _check_key_limits(keys: YamlValue, findings: Findings) -> None:
    for index, key in enumerate(keys if isinstance(keys, list) else []):
        limits = key.get("limits") if isinstance(key, dict) else None
        if isinstance(limits, dict):
            field = f"keys[{index}].limits"
            spell_out_concurrency(limits, field, findings)
            check_limits(limits, field, findings)


def _check_digests_differ(keys: YamlValue, findings: Findings) -> None:
    first_index: dict[str, int] = {}
    for index, key in enumerate(keys if isinstance(keys, list) else []):
        digest = key.get("sha256") if isinstance(key, dict) else None
        if not isinstance(digest, str):
            continue
        first = first_index.setdefault(digest, index)
        if first != index:
            findings.add(f"keys[{index}].sha256", f"is the same key as keys[{first}]")


def _find_digest_problem(digest: str) -> str | None:
    if _DIGEST_FORM.fullmatch(digest):
        return None
    return (
        "must be the key's SHA-256 digest, 64 characters of 0-9 a-f, and never the key "
        "itself; `llmtune-gateway keys hash` makes one"
    )


def _find_name_problem(name: str) -> str | None:
    if len(name) <= MAX_KEY_NAME_CHARS and name.isprintable():
        return None
    return f"must be one line of at most {MAX_KEY_NAME_CHARS} characters"


def _refuse_keys(rule: TextRule) -> TextRule:
    """What could also hold a pasted key is searched for one: these fields are shown."""

    def find_problem(text: str) -> str | None:
        if _KEY_FORM.match(text):
            return "looks like an API key, which does not belong in this file"
        return rule(text)

    return find_problem


_TEXT_RULES: Final[dict[str, TextRule]] = {
    "sha256": _find_digest_problem,
    "workspace": _refuse_keys(find_workspace_problem),
    "plan": _refuse_keys(find_plan_name_problem),
    "name": _refuse_keys(_find_name_problem),
    "models": _refuse_keys(find_pattern_problem),
}
