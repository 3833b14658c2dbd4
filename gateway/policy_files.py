"""
Plans, keys and webhooks as they are now: loaded at the start, reloaded when their files
change.

A bad file leaves the old one in force, and does not keep the other from being taken: a
key must be revocable while somebody's typo is in a plan. Files are polled, not
subscribed to: a ConfigMap swaps a symlink, which file events report differently on
every system, and a handful of `stat` calls a second cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

from gateway.settings import Settings, printable_key
from gateway.telemetry.metrics import Telemetry, What
from gateway.webhooks.registrations import Registrations, load_webhooks_file
from gateway.webhooks.targets import Allowed
from policies.keyring import Keyring, find_unknown_plans, load_keys_file
from policies.plan_files import PlanBook, load_plan_book
from policies.strict_yaml import FileProblems, Problem

logger = logging.getLogger(__name__)

T = TypeVar("T")
Signature: TypeAlias = tuple[tuple[str, int, int, int], ...]


class PolicyFiles:
    """The plan book, the keyring and the webhooks in force."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        """Load everything; FileProblems if anything is wrong."""
        self._plans_dir = settings.plans_dir
        self._keys_file = settings.keys_file
        self._webhooks_file = settings.webhooks_file
        self.allowed = allowed_of(settings.webhooks_allowed)
        # By the variable that names them.
        self._named_plans = {
            "GATEWAY_DEFAULT_PLAN": settings.default_plan,
            "GATEWAY_SIDECAR_PLAN": settings.sidecar_plan,
        }
        self._interval_s = settings.reload_interval_s
        self._telemetry = telemetry
        self._seen = self._look()
        # What was changed and has not been taken.
        self._refused: set[What] = set()
        self.book = self._load_book()
        self.keyring = self._load_keys()
        self.webhooks = self._load_webhooks()
        orphans = find_unknown_plans(self.keyring, self.book)
        if orphans:
            raise FileProblems(orphans)

    def _load_book(self) -> PlanBook:
        if self._plans_dir is not None and not self._plans_dir.is_dir():
            path = str(self._plans_dir)
            raise FileProblems([_unreadable("GATEWAY_PLANS_DIR", path)])
        book = load_plan_book(self._plans_dir)
        problems = [*self._unknown_plans(book), *fleet_problems(book)]
        if problems:
            raise FileProblems(problems)
        return book

    def _unknown_plans(self, book: PlanBook) -> list[Problem]:
        allowed = ", ".join(book.names)
        return [
            Problem("environment", name, f"{plan!r} is not a plan; there are {allowed}")
            for name, plan in self._named_plans.items()
            if plan is not None and plan not in book.names
        ]

    def _load_keys(self) -> Keyring:
        if self._keys_file is None:
            return Keyring()
        if not self._keys_file.is_file():
            path = str(self._keys_file)
            raise FileProblems([_unreadable("GATEWAY_KEYS_FILE", path)])
        return load_keys_file(self._keys_file)

    def _load_webhooks(self) -> Registrations:
        if self._webhooks_file is None:
            return Registrations()
        if not self._webhooks_file.is_file():
            path = str(self._webhooks_file)
            raise FileProblems([_unreadable("GATEWAY_WEBHOOKS_FILE", path)])
        return load_webhooks_file(self._webhooks_file, os.environ, self.allowed)

    async def watch(self) -> None:
        """Reload on change, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.reload_if_changed()
            except Exception:
                # A directory that became unreadable, a disk that fails: the old files
                # stay in force, and the watch goes on.
                logger.exception("looking for changed files failed")

    async def reload_if_changed(self) -> None:
        """Take over changed files; a mistake in them is logged and changes nothing."""
        seen = self._look()
        changed: set[What] = {what for what in seen if seen[what] != self._seen[what]}
        if not changed:
            return
        # Before the load: a refused file is read again only when something changes.
        self._seen = seen
        due = changed | self._refused
        book = await self._loaded("plans", self._load_book) if "plans" in due else None
        ring = await self._loaded("keys", self._load_keys) if "keys" in due else None
        taken = self._take(book, ring)
        if "webhooks" in due:
            hooks = await self._loaded("webhooks", self._load_webhooks)
            if hooks is not None:
                self.webhooks = hooks
                taken.add("webhooks")
        for what in due:
            self._telemetry.reloaded(what, is_refused=what not in taken)
        self._refused = due - taken
        logger.info("reloaded: %s", ", ".join(sorted(taken)) or "nothing")

    async def _loaded(self, what: What, load: Callable[[], T]) -> T | None:
        try:
            # Beside the loop: tens of thousands of keys take seconds to check.
            return await asyncio.to_thread(load)
        except FileProblems as error:
            logger.error("%s refused; the old ones stay in force: %s", what, error)
        except Exception:
            # Not the file's content, so it may be well the next time.
            self._seen[what] = ()
            logger.exception("reading the %s failed", what)
        return None

    def _take(self, book: PlanBook | None, ring: Keyring | None) -> set[What]:
        """
        Put in force as much of what was loaded as fits together.

        Both if they do, so that a plan and its keys can be renamed in one edit; else
        the keys, which revoke; else the plans.
        """
        taken: set[What] = set()
        misfits: list[Problem] = []
        for new_book, new_ring in ((book, ring), (None, ring), (book, None)):
            if new_book is None and new_ring is None:
                continue
            fitting_book = self.book if new_book is None else new_book
            fitting_ring = self.keyring if new_ring is None else new_ring
            orphans = find_unknown_plans(fitting_ring, fitting_book)
            if not orphans:
                self.book, self.keyring = fitting_book, fitting_ring
                taken = {"plans"} if new_book is not None else set()
                taken |= {"keys"} if new_ring is not None else set()
                break
            misfits = misfits or orphans
        if misfits:
            logger.error("not all fits together: %s", FileProblems(misfits))
        return taken

    def _look(self) -> dict[What, Signature]:
        """What tells one version of the files from the next."""
        plans: list[Path] = []
        if self._plans_dir is not None and self._plans_dir.is_dir():
            plans = sorted(self._plans_dir.glob("*.y*ml"))
        keys = [self._keys_file] if self._keys_file else []
        webhooks = [self._webhooks_file] if self._webhooks_file else []
        return {
            "plans": _signature(plans),
            "keys": _signature(keys),
            "webhooks": _signature(webhooks),
        }


def allowed_of(entries: tuple[str, ...]) -> Allowed:
    """Whom webhooks may reach in our own network; FileProblems for what is nobody."""
    try:
        return Allowed(entries)
    except ValueError as problem:
        text = f"{', '.join(entries)}: one {problem}"
        name = "GATEWAY_WEBHOOKS_ALLOWED"
        raise FileProblems([Problem("environment", name, text)]) from None


def _signature(paths: list[Path]) -> Signature:
    seen = []
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            continue  # gone, or not readable: loading says so in words
        seen.append((str(path), found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(seen)


def _unreadable(variable: str, path: str) -> Problem:
    return Problem("environment", variable, f"{path} cannot be read")


def fleet_problems(book: PlanBook) -> list[Problem]:
    """What keeps a private fleet from getting a key of its own."""
    problems = []
    for plan in (*book.plans, *book.overrides.values()):
        if plan.upstream is None:
            continue
        name = plan.upstream.api_key_env
        if name is None:
            # It would get the shared upstream's key, or the caller's, which are neither
            # of its business.
            problem = "is needed: a private fleet gets no other fleet's key"
            problems.append(
                Problem(f"{plan.plan}.yaml", "upstream.api_key_env", problem)
            )
        elif printable_key(os.environ.get(name, "")) is None:
            problem = f"is not set to a key; plan {plan.plan}'s private fleet needs it"
            problems.append(Problem("environment", name, problem))
    return problems
