"""
Plans and keys as they are now: loaded at the start, reloaded when their files change.

A bad file leaves the old one in force. Files are polled, not subscribed to: a ConfigMap
swaps a symlink, which file events report differently on every system, and a handful of
`stat` calls a second cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from gateway.settings import Settings
from gateway.telemetry import Telemetry
from policies.keyring import Keyring, find_unknown_plans, load_keys_file
from policies.plan_files import PlanBook, PlanProblems, load_plan_book
from policies.strict_yaml import FileProblems, Problem

logger = logging.getLogger(__name__)

Signature = tuple[tuple[str, int, int, int], ...]


class PolicyFiles:
    """The plan book and the keyring in force."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        """Load everything; FileProblems if anything is wrong."""
        self._plans_dir = settings.plans_dir
        self._keys_file = settings.keys_file
        self._default_plan = settings.default_plan
        self._interval_s = settings.reload_interval_s
        self._telemetry = telemetry
        self._signature = self._look()
        self.book, self.keyring = self._load()

    def _load(self) -> tuple[PlanBook, Keyring]:
        book = load_plan_book(self._plans_dir)
        keyring = load_keys_file(self._keys_file) if self._keys_file else Keyring()
        problems = find_unknown_plans(keyring, book) + self._missing_in_environment(
            book
        )
        if problems:
            raise FileProblems(problems)
        return book, keyring

    def _missing_in_environment(self, book: PlanBook) -> list[Problem]:
        problems = []
        if self._default_plan is not None and self._default_plan not in book.names:
            problem = f"{self._default_plan!r} is not a plan; there are "
            problem += ", ".join(book.names)
            problems.append(Problem("environment", "GATEWAY_DEFAULT_PLAN", problem))
        for plan in (*book.plans, *book.overrides.values()):
            name = plan.upstream.api_key_env if plan.upstream else None
            if name and not os.environ.get(name):
                # Without it the caller's own key would go to the fleet instead.
                problem = f"is not set; plan {plan.plan}'s private fleet needs it"
                problems.append(Problem("environment", name, problem))
        return problems

    async def watch(self) -> None:
        """Reload on change, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.reload_if_changed()

    async def reload_if_changed(self) -> None:
        """Take over changed files; a mistake in them is logged and changes nothing."""
        signature = self._look()
        if signature == self._signature:
            return
        self._signature = signature
        try:
            # Beside the loop: tens of thousands of keys take seconds to check.
            book, keyring = await asyncio.to_thread(self._load)
        except FileProblems as error:
            what = "plans" if isinstance(error, PlanProblems) else "keys"
            self._telemetry.reloaded(what, is_refused=True)
            logger.error("reload refused; the old files stay in force: %s", error)
            return
        self.book, self.keyring = book, keyring
        for what in ("plans", "keys"):
            self._telemetry.reloaded(what, is_refused=False)
        logger.info("reloaded %d plans and %d keys", len(book.names), len(keyring))

    def _look(self) -> Signature:
        """What tells one version of the files from the next."""
        paths: list[Path] = [self._keys_file] if self._keys_file else []
        if self._plans_dir is not None and self._plans_dir.is_dir():
            paths += sorted(self._plans_dir.glob("*.y*ml"))
        seen = []
        for path in paths:
            try:
                found = path.stat()
            except OSError:
                continue  # gone, or not readable: loading says so in words
            seen.append((str(path), found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(seen)
