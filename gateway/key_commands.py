"""`llmtune-gateway keys`: makes, lists and changes the keys of the store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

import msgspec

from gateway.key_options import (
    CommandProblem,
    add_record_options,
    duration,
    key_id,
    to_record,
)
from gateway.key_table import (
    LONG_ID_CHARS,
    found_to_json,
    in_words,
    to_json,
    to_table,
)
from gateway.store_commands import run_on_store, settings_without_store, to_json_text
from policies.key_store import (
    Found,
    KeyChangeRefused,
    KeyStore,
    new_stored_key,
)
from policies.keyring import KEY_ID_CHARS, digest_of, new_api_key
from policies.plan_files import load_plan_book
from policies.store.errors import StoreUnavailable

CLIENT_NAME: Final = "llmtune-gateway-keys"
IN_MEMORY: Final = (
    "where there is nowhere to keep keys; set it to a Redis, or use a keys file and"
    " `keys hash`"
)
# Time to replace a key in every deployment, and short enough to remember doing it.
DEFAULT_OVERLAP: Final = timedelta(hours=24)

Do = Callable[[argparse.Namespace, KeyStore], Awaitable[None]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `keys`; each sets what runs it."""
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    def add(name: str, text: str, do: Do) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(name, help=text)
        action.set_defaults(run=partial(_run, do=do))
        action.add_argument("--json", action="store_true", help="for programs")
        return action

    creating = add("create", "make a key in the store, and print it once", _create)
    add_record_options(creating)
    listing = add("list", "the keys of the store, by their ids", _list)
    listing.add_argument("--workspace")
    revoking = add("revoke", "stop a key at once, on every replica", _revoke)
    rotating = add("rotate", "replace a key, with time to change over", _rotate)
    for action in (revoking, rotating):
        action.add_argument("key_id", type=key_id, metavar="KEY_ID")
        action.add_argument("--workspace", help="look for the id in this one only")
    rotating.add_argument(
        "--overlap",
        type=duration,
        default=DEFAULT_OVERLAP,
        help="how long the old key goes on working; default: 24h",
    )
    moving = add("move", "put a workspace on another plan, usage kept", _move)
    moving.add_argument("workspace", metavar="WORKSPACE")
    moving.add_argument("--plan", required=True)
    hashing = actions.add_parser(
        "hash", help="the keys-file line of a key read from standard input"
    )
    hashing.add_argument(
        "--new", action="store_true", help="make a key and print it once, to stderr"
    )
    hashing.add_argument("--workspace", default="my-workspace")
    hashing.add_argument("--plan", default="sandbox")
    hashing.set_defaults(run=_hash)


def _run(args: argparse.Namespace, do: Do) -> int:
    return run_on_store(
        lambda store: do(args, KeyStore(store)),
        client_name=CLIENT_NAME,
        in_memory=IN_MEMORY,
    )


async def _create(args: argparse.Namespace, keys: KeyStore) -> None:
    api_key = new_api_key()
    book = load_plan_book(settings_without_store().plans_dir)
    record = to_record(args, digest_of(api_key), book)
    now = await keys.read_clock()
    if args.ttl is not None:
        record = msgspec.structs.replace(record, expires_at=now + args.ttl)
    if record.is_expired(now):
        raise CommandProblem("--expires-at: is over already", 2)
    key = new_stored_key(record, now)
    with _explained(key.key_id, made=key.sha256):
        await keys.create(key)
    told = f"key {key.key_id} of workspace {key.workspace} on plan {key.plan}"
    _hand_out(api_key, told, to_json(key, now), is_json=args.json)


async def _list(args: argparse.Namespace, keys: KeyStore) -> None:
    now = await keys.read_clock()
    found = _in_workspace(await keys.find_all(), args.workspace)
    found.sort(key=_by_workspace_and_age)
    if not args.json:
        sys.stdout.write(to_table(found, now))
        return
    _write_json([found_to_json(each, now) for each in found])


async def _revoke(args: argparse.Namespace, keys: KeyStore) -> None:
    found = await _only(keys, args)
    shown = found.sha256[:KEY_ID_CHARS]
    with _explained(shown):
        await keys.revoke(found.sha256)
    of = f" of workspace {found.key.workspace}" if found.key else ""
    if args.json:
        _write_json({"key_id": shown, "state": "revoked"})
    else:
        sys.stdout.write(f"revoked key {shown}{of}\n")


async def _rotate(args: argparse.Namespace, keys: KeyStore) -> None:
    found = await _only(keys, args)
    if found.key is None:
        raise CommandProblem("a newer version wrote this key; rotate it with that", 1)
    api_key = new_api_key()
    digest = digest_of(api_key)
    with _explained(found.key.key_id, made=digest):
        key = await keys.rotate(found.sha256, digest, args.overlap)
    old = await keys.find(found.sha256)
    until = in_words(old.expires_at) if old else "now"
    told = f"key {key.key_id} replaces {found.key.key_id}, which works until {until}"
    shown = {**to_json(key, key.created_at), "old_key_works_until": until}
    _hand_out(api_key, told, shown, is_json=args.json)


async def _move(args: argparse.Namespace, keys: KeyStore) -> None:
    names = load_plan_book(settings_without_store().plans_dir).names
    if args.plan not in names:
        allowed = ", ".join(names)
        raise CommandProblem(f"--plan: {args.plan} is not a plan ({allowed})", 2)
    found = _in_workspace(await keys.find_all(), args.workspace)
    if not found:
        raise CommandProblem(f"no key of workspace {args.workspace} is there", 1)
    for each in found:
        with _explained(each.sha256[:KEY_ID_CHARS]):
            await keys.move(each.sha256, args.plan)
    if args.json:
        moved = [each.sha256[:KEY_ID_CHARS] for each in found]
        _write_json({"workspace": args.workspace, "plan": args.plan, "keys": moved})
    else:
        sys.stdout.write(
            f"workspace {args.workspace} is on plan {args.plan}: {len(found)} keys\n"
        )


async def _only(keys: KeyStore, args: argparse.Namespace) -> Found:
    """The one key that an id names."""
    found = _in_workspace(await keys.find_all(args.key_id), args.workspace)
    if not found:
        where = f" in workspace {args.workspace}" if args.workspace else ""
        raise CommandProblem(f"there is no key {args.key_id}{where}", 1)
    if len(found) > 1:
        candidates = "\n".join(_candidate(each) for each in found)
        raise CommandProblem(f"{args.key_id} may be any of:\n{candidates}", 1)
    return found[0]


def _candidate(found: Found) -> str:
    key = found.key
    about = f"  {key.workspace}  {key.name or ''}" if key else ""
    return f"  {found.sha256[:LONG_ID_CHARS]}{about}".rstrip()


def _in_workspace(found: list[Found], workspace: str | None) -> list[Found]:
    if workspace is None:
        return found
    return [each for each in found if each.key and each.key.workspace == workspace]


def _by_workspace_and_age(found: Found) -> tuple[str, str, str]:
    key = found.key
    # What cannot be read comes last.
    return (key.workspace, in_words(key.created_at), key.sha256) if key else ("~",) * 3


@contextmanager
def _explained(shown: str, made: str | None = None) -> Iterator[None]:
    """Say what a change that failed may have left."""
    try:
        yield
    except KeyChangeRefused as refused:
        raise CommandProblem(f"key {shown}: {refused}", 1) from None
    except StoreUnavailable as error:
        if not error.is_ambiguous:
            raise
        done = f"key {shown} may have been changed; `keys list` tells"
        if made is not None:
            # Nobody will ever see this key, so it must not stay.
            done = f"key {made[:KEY_ID_CHARS]} may have been made; revoke it"
        raise CommandProblem(f"no answer from the store ({error}): {done}", 1) from None


def _hand_out(api_key: str, told: str, shown: dict[str, Any], *, is_json: bool) -> None:
    if is_json:
        _write_json({"key": api_key, **shown})
        return
    # Beside standard output, so that `KEY=$(... keys create ...)` is the key alone.
    sys.stderr.write(f"{told}; the key, shown this once:\n")
    sys.stderr.flush()
    sys.stdout.write(f"{api_key}\n")


def _write_json(value: Any) -> None:
    sys.stdout.write(to_json_text(value))


def _hash(args: argparse.Namespace) -> int:
    if args.new:
        api_key = new_api_key()
        sys.stderr.write(f"the key, shown this once: {api_key}\n")
    else:
        # From standard input: an argument would stay in the shell's history.
        api_key = sys.stdin.readline().strip()
        if not api_key:
            raise CommandProblem("no key on standard input", 2)
    record = {
        "sha256": digest_of(api_key),
        "workspace": args.workspace,
        "plan": args.plan,
    }
    # One line, to be appended below `keys:`.
    sys.stdout.write(f"- {msgspec.json.encode(record).decode()}\n")
    return 0
