"""
Makes the peers' environments: `python -m benchmarks.peers`. Safe to repeat.

Each peer lives apart below `.cache/bench/`, installed from a lock file with hashes, and
a stamp, written last, says what it was made from. What cannot be installed here is told
and left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.servers import debian

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent
CACHE: Final = ROOT / ".cache" / "bench"
LOCKS: Final = HERE / "locks"

# LiteLLM is the largest: some hundred packages.
_INSTALL_WITHIN_S: Final = 420.0


# The environment of the gateway itself; its code is this checkout's.
OURS: Final = "gateway"
# The same with the exporter of spans.
OURS_TRACED: Final = "gateway-otlp"


class PeerMissing(Exception):
    """A peer or a tool that is not here and could not be installed."""


def python_home(name: str) -> Path:
    """Where the environment of a lock file lies."""
    return CACHE / name


def interpreter() -> str:
    """
    The Python that ours and LiteLLM run in: `BENCH_PYTHON`, or this one.

    One built without profile-guided optimisation, as pyenv's, is slower than those of
    distributions and container images.
    """
    return os.environ.get("BENCH_PYTHON") or sys.executable


def _build() -> str:
    """Its version and build: an interpreter may be upgraded in its place."""
    asked = [interpreter(), "-VV"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout


def node_home() -> Path:
    return CACHE / "portkey"


def prepare_python(name: str) -> bool:
    """An environment with exactly what its lock file says; false if it was there."""
    home = python_home(name)
    lock = ROOT / "requirements.lock" if name == OURS else LOCKS / f"{name}.lock"
    # The interpreter too: an environment made from another one is another environment.
    stamp = _digest(lock.read_bytes(), interpreter().encode(), _build().encode())
    if _is_stamped(home, stamp):
        return False
    home.parent.mkdir(parents=True, exist_ok=True)
    uv = _uv()
    _run(uv, "venv", "--quiet", "--clear", "--python", interpreter(), str(home))
    target = ("--python", str(home / "bin" / "python"))
    _run(uv, "pip", "sync", "--quiet", "--require-hashes", *target, str(lock))
    (home / "stamp").write_text(stamp)
    return True


def prepare_node() -> bool:
    """Portkey's gateway by npm, in a folder of its own; false if it was there."""
    home, sources = node_home(), LOCKS / "portkey"
    names = ("package.json", "package-lock.json", ".npmrc")
    stamp = _digest(*((sources / name).read_bytes() for name in names))
    if _is_stamped(home, stamp):
        return False
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise PeerMissing("needs Node 20 or later with npm on the PATH")
    home.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(sources / name, home / name)
    # `npm ci` begins by removing what is there.
    (home / "stamp").unlink(missing_ok=True)
    _run("npm", "ci", "--loglevel=error", "--ignore-scripts", "--prefix", str(home))
    (home / "stamp").write_text(stamp)
    return True


def tool(name: str) -> str:
    """The path of wrk or nginx: the machine's, or Debian's unpacked."""
    try:
        return debian.program(name)
    except debian.ProgramMissing as missing:
        raise PeerMissing(f"{missing}; install it, or run `make bench-peers`") from None


def prepare_tool(name: str) -> bool:
    """Unpack Debian's package without root, where the machine has none itself."""
    try:
        return debian.prepare(name)
    except debian.ProgramMissing as missing:
        raise PeerMissing(str(missing)) from None


def tool_environment() -> dict[str, str]:
    """Lets unpacked tools find the libraries unpacked with them."""
    return debian.library_path()


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _is_stamped(home: Path, stamp: str) -> bool:
    file = home / "stamp"
    return file.is_file() and file.read_text() == stamp


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise PeerMissing("uv is missing: install the development requirements first")
    return found


def _run(*command: str) -> None:
    try:
        debian.run(*command, folder=ROOT, within_s=_INSTALL_WITHIN_S)
    except debian.ProgramMissing as missing:
        raise PeerMissing(str(missing)) from None


_STEPS: Final[tuple[tuple[str, Callable[[], bool]], ...]] = (
    ("wrk", lambda: prepare_tool("wrk")),
    ("nginx", lambda: prepare_tool("nginx")),
    ("our own", lambda: prepare_python(OURS)),
    ("our own, with traces", lambda: prepare_python(OURS_TRACED)),
    ("Envoy", lambda: prepare_python("envoy")),
    ("ferrogw", lambda: prepare_python("ferrogw")),
    ("LiteLLM", lambda: prepare_python("litellm")),
    ("Portkey", prepare_node),
    ("matplotlib, for the charts", lambda: prepare_python("charts")),
)


def main() -> None:
    for what, prepare in _STEPS:
        started_s = time.monotonic()
        try:
            note = "installed" if prepare() else "ready"
        except PeerMissing as problem:
            note = f"LEFT OUT: {problem}"
        print(f"{what} ... {note} ({time.monotonic() - started_s:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
