"""
API keys in Redis: one hash, a digest's record in each field.

Records are written as JSON by this module alone; the script only compares and replaces
them, so that a change is made as a whole, once, and told to every replica with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from policies.key_names import KEY_CHANGES, KEY_EXPIRIES, KEY_RECORDS
from policies.keyring import KEY_SCOPE_CHARS, KeyRecord
from policies.names import find_plan_name_problem, find_workspace_problem
from policies.store.errors import StoreUnavailable
from policies.store.scripts import load_script
from policies.store.store import Store

# An expired key is listed for this long, so that somebody who asks why it stopped finds
# the answer; after that its record only costs memory.
KEEP_EXPIRED: Final = timedelta(days=30)
# Redis answers 500 fields of some 300 bytes in well under a millisecond, so that a long
# list never stands in the way of an admission.
PAGE_FIELDS: Final = 500
# Somebody else changed the same key: rare, and never twice in a row by chance.
MAX_ATTEMPTS: Final = 5
KEEPS_CHANGING: Final = "others keep changing it; try again"

_CHANGE: Final = load_script("keys_change")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class KeyChangeRefused(Exception):
    """The change makes no sense for the key as it is now; the text says why."""


class UnreadableRecord(Exception):
    """A record this version does not understand, which may narrow the key."""


class StoredKey(KeyRecord, frozen=True, kw_only=True, omit_defaults=True):
    """A key's record in the store."""

    created_at: Annotated[datetime, Meta(tz=True)]
    # Handed on by a rotation, so that the new key goes on counting where the old did.
    scope: Annotated[str, Meta(pattern=rf"^[0-9a-f]{{{KEY_SCOPE_CHARS}}}\Z")]
    # Key ids.
    rotated_from: str | None = None
    rotated_to: str | None = None

    @property
    def scope_id(self) -> str:
        return self.scope

    def is_rotating(self, now: datetime) -> bool:
        """Whether it still works beside the key that replaces it."""
        return self.rotated_to is not None and not self.is_expired(now)


class Found(msgspec.Struct, frozen=True):
    """A field of the hash; `key` is None where the record cannot be read."""

    sha256: str
    raw: bytes
    key: StoredKey | None


class _Change(msgspec.Struct, frozen=True):
    digest: str
    before: bytes = b""
    after: StoredKey | None = None

    def arguments(self) -> tuple[str | bytes | int, ...]:
        if self.after is None:
            return (self.digest, self.before, b"", b"")
        expires_at = self.after.expires_at
        expires_at_ms: int | bytes = b""
        if expires_at is not None:
            expires_at_ms = (expires_at - _EPOCH) // timedelta(milliseconds=1)
        return (self.digest, self.before, _encode(self.after), expires_at_ms)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(StoredKey).decode


class KeyStore:
    """Finds, lists and changes the keys of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, digest: str) -> StoredKey | None:
        """The record of a digest; UnreadableRecord if this version cannot read it."""
        raw = await self._get(digest)
        return None if raw is None else _read(digest, raw)

    async def read_clock(self) -> datetime:
        """Redis's own time, to the millisecond, which every change is dated by."""
        seconds, micros = await self._store.call("TIME", key=KEY_RECORDS)
        millis = int(seconds) * 1000 + int(micros) // 1000
        return _EPOCH + timedelta(milliseconds=millis)

    async def create(self, key: StoredKey) -> None:
        """Keep a new key."""
        if not await self._change(_Change(key.sha256, after=key)):
            raise KeyChangeRefused("this key is in the store already")

    async def revoke(self, digest: str) -> None:
        """Forget a key; it stops working everywhere at once."""
        for _ in range(MAX_ATTEMPTS):
            raw = await self._get(digest)
            if raw is None or await self._change(_Change(digest, before=raw)):
                return
        raise KeyChangeRefused(KEEPS_CHANGING)

    async def rotate(
        self, digest: str, new_digest: str, overlap: timedelta
    ) -> StoredKey:
        """
        Replace a key by one that may do the same and counts in the same place.

        Both work for the overlap, or until the old one would have expired anyway.
        """
        for _ in range(MAX_ATTEMPTS):
            raw = await self._get(digest)
            if raw is None:
                raise KeyChangeRefused("it is no longer in the store")
            now = await self.read_clock()
            old = _read(digest, raw)
            _refuse_rotation(old, now)
            new = _successor(old, new_digest, now)
            ending = _ending(old, new, now + overlap)
            if await self._change(
                _Change(digest, before=raw, after=ending),
                _Change(new_digest, after=new),
            ):
                return new
        raise KeyChangeRefused(KEEPS_CHANGING)

    async def move(self, digest: str, plan: str) -> None:
        """Put a key on another plan; what its workspace used stays used."""
        for _ in range(MAX_ATTEMPTS):
            raw = await self._get(digest)
            if raw is None:
                return
            moved = msgspec.structs.replace(_read(digest, raw), plan=plan)
            if await self._change(_Change(digest, before=raw, after=moved)):
                return
        raise KeyChangeRefused(KEEPS_CHANGING)

    async def pages(self, prefix: str = "") -> AsyncIterator[list[Found]]:
        """
        Every key whose digest begins so, in pages and in no order.

        As Redis's scans are, a key may come twice if the hash grows meanwhile.
        """
        cursor = b"0"
        while True:
            cursor, flat = await self._store.call(
                *("HSCAN", KEY_RECORDS, cursor, "MATCH", f"{prefix}*"),
                *("COUNT", PAGE_FIELDS),
                key=KEY_RECORDS,
            )
            yield [
                _found(digest.decode("ascii", "replace"), raw)
                for digest, raw in zip(flat[::2], flat[1::2], strict=True)
            ]
            if cursor == b"0":
                return

    async def find_all(self, prefix: str = "") -> list[Found]:
        """The same in one list, each key once, in the order of their digests."""
        found = {key.sha256: key async for page in self.pages(prefix) for key in page}
        return [found[digest] for digest in sorted(found)]

    @asynccontextmanager
    async def following(
        self,
        *,
        on_change: Callable[[str], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> AsyncIterator[None]:
        """Hear the digest of each record that changes, and when hearing is cut."""

        def changed(message: bytes) -> None:
            on_change(message.decode("ascii", "replace"))

        async with self._store.listen(
            KEY_CHANGES, on_message=changed, on_up=on_up, on_down=on_down
        ):
            yield

    async def _get(self, digest: str) -> bytes | None:
        raw: bytes | None = await self._store.call(
            "HGET", KEY_RECORDS, digest, key=KEY_RECORDS
        )
        return raw

    async def _change(self, *changes: _Change) -> bool:
        keep_ms = KEEP_EXPIRED // timedelta(milliseconds=1)
        flat = [part for change in changes for part in change.arguments()]
        arguments = [KEY_CHANGES, keep_ms, *flat]
        try:
            return await self._run(arguments)
        except StoreUnavailable as error:
            if not error.is_ambiguous:
                raise
            try:
                # It may have been done. A second run then says so and changes nothing.
                return await self._run(arguments)
            except StoreUnavailable:
                # Whatever the second says, the first may have been done.
                raise error from None

    async def _run(self, arguments: list[Any]) -> bool:
        done = await self._store.run(_CHANGE, [KEY_RECORDS, KEY_EXPIRIES], arguments)
        return bool(done)


def new_stored_key(record: KeyRecord, now: datetime) -> StoredKey:
    """A key as it is kept, from what it may do."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return StoredKey(**fields, created_at=now, scope=record.scope_id)


def _read(digest: str, raw: bytes) -> StoredKey:
    try:
        key = _decode(raw)
    except msgspec.DecodeError as error:
        # Not what it says: the record may be damaged in any way.
        raise UnreadableRecord(digest) from error
    # Redis is no file of ours, and these names become parts of further keys in it.
    has_problem = find_workspace_problem(key.workspace) or find_plan_name_problem(
        key.plan
    )
    if has_problem or key.sha256 != digest:
        raise UnreadableRecord(digest)
    return key


def _found(digest: str, raw: bytes) -> Found:
    try:
        return Found(digest, raw, _read(digest, raw))
    except UnreadableRecord:
        return Found(digest, raw, None)


def _refuse_rotation(old: StoredKey, now: datetime) -> None:
    if old.is_expired(now):
        raise KeyChangeRefused("it has expired; create a new one")
    if old.rotated_to is not None:
        raise KeyChangeRefused(f"it was rotated already; {old.rotated_to} replaces it")


def _successor(old: StoredKey, digest: str, now: datetime) -> StoredKey:
    return msgspec.structs.replace(
        old, sha256=digest, created_at=now, rotated_from=old.key_id
    )


def _ending(old: StoredKey, new: StoredKey, until: datetime) -> StoredKey:
    until = min(until, old.expires_at or until)
    return msgspec.structs.replace(old, expires_at=until, rotated_to=new.key_id)
