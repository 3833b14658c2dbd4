"""`llmtune-gateway webhooks`: what is on its way, told again, checked beforehand."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from gateway.batches.inbox import EVENTS, WHAT_CAME
from gateway.columns import in_columns
from gateway.key_options import CommandProblem
from gateway.policy_files import allowed_of
from gateway.store_commands import run_on_store, settings_without_store, to_json_text
from gateway.webhooks.outbox import ID_PREFIX, Delivery, Held, LateDelivery, Outbox
from gateway.webhooks.registrations import load_webhooks_file
from gateway.webhooks.signing import new_secret
from policies.jobs.port import JobsUnavailable
from policies.jobs.redis_jobs import RedisJobs
from policies.store.store import Store

CLIENT_NAME: Final = "llmtune-gateway-webhooks"
IN_MEMORY: Final = (
    "where deliveries are known to the gateway's process alone; set it to its Redis"
)
# A gateway that notes an attempt comes between a reading and a writing, and only once.
MOST_TRIES: Final = 5

_ID_FORM: Final = re.compile(rf"{ID_PREFIX}[0-9a-f]{{32,40}}")
_COLUMNS: Final[tuple[str, ...]] = (
    *("ID", "WORKSPACE", "STATE", "ATTEMPTS", "OUTCOME"),
    *("CREATED", "TYPE", "EVENT", "RECEIVER"),
)

Do = Callable[[argparse.Namespace, RedisJobs], Awaitable[None]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `webhooks`; each sets what runs it."""
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list", help="deliveries in the store, the newest first"
    )
    listing.add_argument("--dead", action="store_true", help="only those given up")
    listing.add_argument("--workspace")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(run=partial(_run, do=_list))
    replaying = actions.add_parser("replay", help="deliver again, at once")
    which = replaying.add_mutually_exclusive_group(required=True)
    which.add_argument("delivery_id", nargs="?", type=_delivery_id, metavar="ID")
    which.add_argument(
        "--all-dead", action="store_true", help="everything that was given up"
    )
    replaying.add_argument("--workspace", help="of this one only")
    replaying.set_defaults(run=partial(_run, do=_replay))
    showing = actions.add_parser("show", help="an event of LLMTune's as it came")
    showing.add_argument("event_id", metavar="EVENT", help="as the log names it")
    showing.set_defaults(run=partial(_run, do=_show))
    checking = actions.add_parser("check", help="read the file as the server would")
    checking.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="default: GATEWAY_WEBHOOKS_FILE",
    )
    checking.set_defaults(run=_check)
    making = actions.add_parser("secret", help="make a secret for a receiver")
    making.set_defaults(run=_secret)


def _run(args: argparse.Namespace, do: Do) -> int:
    async def on_store(store: Store) -> None:
        try:
            await do(args, RedisJobs(store))
        except JobsUnavailable as error:
            # Its own words say why, and whether something may have been done.
            raise error.__cause__ or error from None

    return run_on_store(on_store, client_name=CLIENT_NAME, in_memory=IN_MEMORY)


async def _show(args: argparse.Namespace, jobs: RedisJobs) -> None:
    kept = await jobs.collected(EVENTS, args.event_id)
    if WHAT_CAME not in kept:
        raise CommandProblem(f"there is no event {args.event_id}", 1)
    sys.stdout.write(kept[WHAT_CAME].decode(errors="replace") + "\n")


async def _list(args: argparse.Namespace, jobs: RedisJobs) -> None:
    outbox = Outbox(jobs)
    found = [each.delivery async for each in _found(args, outbox, is_dead=args.dead)]
    if args.json:
        sys.stdout.write(to_json_text([each.shown() for each in found]))
        return
    sys.stdout.write(in_columns(_COLUMNS, map(_cells, found)))


async def _found(
    args: argparse.Namespace, outbox: Outbox, *, is_dead: bool
) -> AsyncIterator[Held]:
    for workspace in await _workspaces(args, outbox):
        async for held in outbox.all_of(workspace):
            if held.delivery.state == "dead" or not is_dead:
                yield held


async def _workspaces(args: argparse.Namespace, outbox: Outbox) -> list[str]:
    return [args.workspace] if args.workspace else await outbox.workspaces()


async def _replay(args: argparse.Namespace, jobs: RedisJobs) -> None:
    outbox = Outbox(jobs)
    if args.all_dead:
        dead = [held async for held in _found(args, outbox, is_dead=True)]
        for held in dead:
            await _replay_one(outbox, held)
        sys.stdout.write(f"{len(dead)} deliveries are due again\n")
        return
    places = await _workspaces(args, outbox)
    asked = (outbox.find(place, args.delivery_id) for place in places)
    found = [held for held in await asyncio.gather(*asked) if held is not None]
    if not found:
        raise CommandProblem(f"there is no delivery {args.delivery_id}", 1)
    await _replay_one(outbox, found[0])
    sys.stdout.write(f"{args.delivery_id} is due again\n")


async def _replay_one(outbox: Outbox, held: Held | None) -> None:
    for _ in range(MOST_TRIES):
        if held is None:
            return
        try:
            await outbox.replay(held)
        except LateDelivery:
            held = await outbox.find(held.delivery.workspace, held.delivery.id)
        else:
            return
    raise CommandProblem("it is changed again and again; try later", 1)


def _check(args: argparse.Namespace) -> int:
    settings = settings_without_store()
    path: Path | None = args.file or settings.webhooks_file
    if path is None:
        raise CommandProblem("name a FILE, or set GATEWAY_WEBHOOKS_FILE", 2)
    allowed = allowed_of(settings.webhooks_allowed)
    registrations = load_webhooks_file(path, os.environ, allowed)
    sys.stdout.write(f"{len(registrations)} webhooks are good\n")
    return 0


def _secret(args: argparse.Namespace) -> int:
    del args
    sys.stdout.write(f"{new_secret().reveal()}\n")
    return 0


def _cells(delivery: Delivery) -> tuple[str, ...]:
    made = datetime.fromtimestamp(delivery.created_at, UTC)
    return (
        delivery.id,
        delivery.workspace,
        delivery.state,
        str(delivery.attempts),
        delivery.outcome,
        made.strftime("%Y-%m-%dT%H:%M:%SZ"),
        delivery.type,
        delivery.event_id,
        delivery.receiver,
    )


def _delivery_id(text: str) -> str:
    if _ID_FORM.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError("must be an id as `webhooks list` shows it")
