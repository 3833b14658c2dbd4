"""
`llmtune-gateway simulate`: how the knobs are spelled, and the process around them.

Values are checked here and not by argparse, whose complaints take several lines.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from gateway.simulator.faults import FaultKind
from gateway.simulator.server import running_simulator
from gateway.simulator.settings import (
    DEFAULT_MODELS,
    SettingsError,
    SimulatorSettings,
    parse_setting,
)

DEFAULT_PORT: Final = 8090


class Knob(msgspec.Struct, frozen=True):
    """One option: its flag, the setting it sets, and what it takes."""

    flag: str
    setting: str
    takes: str
    effect: str
    is_repeatable: bool = False


KNOBS: Final = (
    Knob("--ttft-ms", "ttft_ms", "MS", "time to first token"),
    Knob("--tokens-per-second", "tokens_per_second", "N", "pace; 0: no pace at all"),
    Knob("--seed", "seed", "N", "another seed, other texts and faults"),
    Knob("--generation", "generation", "1|2|3", "shape of inference answers"),
    Knob(
        "--stream-form",
        "stream_form",
        "chunks|text|token|delta|json",
        "shape of inference events; json: models cannot stream",
    ),
    Knob(
        "--requires",
        "requires",
        "prompt|messages|either",
        "what an inference request must carry",
    ),
    Knob("--error-shape", "error_shape", "seed|docs", "shape of errors"),
    Knob("--api-key", "api_keys", "KEY", "accept only this key", is_repeatable=True),
    Knob(
        "--model",
        "models",
        "ID",
        f"have this model instead of the built-in {len(DEFAULT_MODELS)}",
        is_repeatable=True,
    ),
    Knob("--answer-tokens", "answer_tokens", "MIN-MAX", "length of answers"),
    Knob(
        "--fault",
        "faults",
        "KIND=SHARE",
        "share of POST requests that meet a fault, 0 to 1; kinds: "
        + ", ".join(FaultKind),
        is_repeatable=True,
    ),
    Knob("--retry-after-s", "retry_after_s", "S", "Retry-After of rate-limit"),
    Knob("--slow-headers-ms", "slow_headers_ms", "MS", "delay of slow-headers"),
    Knob("--stall-ms", "stall_ms", "MS", "longest stall"),
    Knob("--max-body-bytes", "max_body_bytes", "N", "largest request body"),
    Knob(
        "--webhook-generation", "webhook_generation", "1|2|3", "shape of webhook posts"
    ),
    Knob("--webhook-secret", "webhook_secret", "SECRET", "signs them; '': unsigned"),
    Knob("--webhook-retry-ms", "webhook_retry_ms", "MS", "first retry; then doubles"),
    Knob("--webhook-copies", "webhook_copies", "N", "deliveries of each event"),
    Knob("--webhook-drop", "webhook_drop", "SHARE", "of events: never sent"),
    Knob("--webhook-double", "webhook_double", "SHARE", "of events: sent twice"),
    Knob("--webhook-late", "webhook_late", "SHARE", "of events: overtaken"),
    Knob("--webhook-late-ms", "webhook_late_ms", "MS", "how late those are"),
    Knob(
        "--batch-webhook", "batch_webhook", "batch|item", "one post per batch or item"
    ),
    Knob("--batch-ms", "batch_ms", "MS", "time a batch takes"),
    Knob("--job-queued-ms", "job_queued_ms", "MS", "time a fine-tune is queued"),
    Knob("--job-running-ms", "job_running_ms", "MS", "time a fine-tune runs"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port",
        default=str(DEFAULT_PORT),
        metavar="N",
        help=f"port to listen on; 0: any free one (default {DEFAULT_PORT})",
    )
    for knob in KNOBS:
        parser.add_argument(
            knob.flag,
            action="append" if knob.is_repeatable else "store",
            metavar=knob.takes,
            help=knob.effect + default_of(knob),
        )


def run(args: argparse.Namespace) -> int:
    """Simulate until SIGTERM or SIGINT; 2 if a knob has a value it cannot have."""
    try:
        settings, port = settings_from(args), port_from(args.port)
    except SettingsError as error:
        return refuse(str(error))
    try:
        # uvloop is absent on Windows, and worth a third more requests elsewhere.
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(simulate(settings, args.host, port))
    except OSError as error:
        return refuse(f"cannot listen: {error.strerror}")
    return 0


async def simulate(settings: SimulatorSettings, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_simulator(settings, host, port) as simulator:
        # Printed once it listens: scripts wait for this line.
        sys.stdout.write(
            f"LLMTune simulator listening on {simulator.url}"
            f" (base URL {simulator.base_url})\n"
        )
        sys.stdout.flush()
        await stop.wait()


def settings_from(args: argparse.Namespace) -> SimulatorSettings:
    """The settings the command line asks for; the error names the flag."""
    given: dict[str, Any] = {}
    for knob in KNOBS:
        raw = getattr(args, knob.flag.removeprefix("--").replace("-", "_"))
        if raw is None:
            continue
        try:
            given |= parsed(knob, raw)
        except SettingsError as error:
            shown = " ".join(raw) if isinstance(raw, list) else raw
            problem = f"{shown!r} is not allowed, give {knob.takes}"
            raise SettingsError(knob.flag, f"{problem} ({error.problem})") from error
    try:
        return SimulatorSettings(**given)
    except SettingsError as error:
        raise SettingsError(flag_of(error.field), error.problem) from error


def parsed(knob: Knob, raw: str | list[str]) -> Mapping[str, object]:
    if knob.setting == "answer_tokens":
        low, _, high = str(raw).partition("-")
        return {
            "answer_tokens_min": parse_setting("answer_tokens_min", low),
            "answer_tokens_max": parse_setting("answer_tokens_max", high or low),
        }
    if knob.setting == "faults":
        return {"faults": parse_setting("faults", dict(map(pair, raw)))}
    return {knob.setting: parse_setting(knob.setting, raw)}


def pair(written: str) -> tuple[str, str]:
    kind, equals, share = written.partition("=")
    if not equals:
        raise SettingsError("faults", "no = in it")
    if kind not in set(FaultKind):
        raise SettingsError("faults", f"kinds are {', '.join(FaultKind)}")
    return kind, share


def port_from(raw: str) -> int:
    try:
        port = int(raw)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise SettingsError("--port", f"{raw!r} is not allowed, give 0 to 65535")
    return port


def flag_of(setting: str) -> str:
    flags = {knob.setting: knob.flag for knob in KNOBS}
    return flags.get(setting.removesuffix("_min").removesuffix("_max"), setting)


def default_of(knob: Knob) -> str:
    defaults = SimulatorSettings()
    if knob.setting == "answer_tokens":
        return f" (default {defaults.answer_tokens_min}-{defaults.answer_tokens_max})"
    if knob.is_repeatable:
        return " (repeatable)"
    default = getattr(defaults, knob.setting)
    return f" (default {default})"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not everywhere
    except ImportError:
        return None
    return uvloop.new_event_loop


def refuse(problem: str) -> int:
    sys.stderr.write(f"llmtune-gateway simulate: {problem}\n")
    return 2
