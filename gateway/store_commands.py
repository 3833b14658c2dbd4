"""What commands that work on the store share: opening it, and saying why not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import uvloop

from gateway.key_options import CommandProblem
from gateway.settings import Settings, load_settings, variable_of
from policies.store.errors import StoreUnavailable
from policies.store.store import Store, open_store
from policies.store.url import StoreUrlProblem, parse_store_url

# A person waits, and a change that gave up half-way worries more than a slow one.
STORE_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 3.0

STORE_URL: Final = variable_of("store_url")


def run_on_store(
    do: Callable[[Store], Awaitable[None]], *, client_name: str, in_memory: str
) -> int:
    """Do it on the store of the environment; `in_memory` is why that one is none."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_on_store(do, client_name, in_memory))
    return 0


async def _on_store(
    do: Callable[[Store], Awaitable[None]], client_name: str, in_memory: str
) -> None:
    try:
        url = parse_store_url(os.environ.get(STORE_URL, "").strip() or "memory://")
    except StoreUrlProblem as problem:
        raise CommandProblem(f"{STORE_URL}: {problem}", 2) from None
    if url.kind == "memory":
        raise CommandProblem(f"{STORE_URL} is memory://, {in_memory}", 2)
    store = open_store(
        url,
        timeout_s=STORE_TIMEOUT_S,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        client_name=client_name,
    )
    try:
        await do(store)
    except StoreUnavailable as error:
        raise CommandProblem(f"the store cannot be asked: {error}", 1) from None
    finally:
        await store.aclose()


def settings_without_store() -> Settings:
    """The environment's, without the store's URL, which may hold a password."""
    others = {name: os.environ[name] for name in os.environ if name != STORE_URL}
    return load_settings(others)


def to_json_text(value: Any) -> str:
    """What a program reads."""
    return f"{msgspec.json.format(msgspec.json.encode(value)).decode()}\n"
