"""
Makes the clients' environments: `python -m tests.clients.prepare`. Safe to repeat.

Every client lives apart from the gateway, below `.cache/clients/`, installed from a
lock file with hashes. A stamp says what an environment was made from, and is written
last.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
CACHE: Final = ROOT / ".cache" / "clients"
NODE_SOURCES: Final = HERE / "node"
NODE_HOME: Final = CACHE / "node"

PYTHON_VERSIONS: Final = ("1.109.1", "2.54.0", "3.54.0")
NODE_VERSION: Final = "6.49.0"
NODE_MAJOR: Final = 20

SKIP_NODE: Final = "LLMTUNE_SKIP_NODE"
NODE_HINT: Final = (
    f"the tests of openai-node need Node {NODE_MAJOR} or later with npm on the PATH;"
    f" set {SKIP_NODE}=1 to leave them out"
)
COMMAND: Final = "python -m tests.clients.prepare"


def lock_of(version: str) -> Path:
    return HERE / f"openai-{version}.lock"


def home_of(version: str) -> Path:
    return CACHE / f"openai-{version}"


def python_of(version: str) -> Path:
    """The interpreter that has this version of openai-python."""
    return home_of(version) / "bin" / "python"


def is_node_skipped() -> bool:
    return os.environ.get(SKIP_NODE, "") not in {"", "0"}


def is_python_ready(version: str) -> bool:
    return _is_stamped(home_of(version), python_stamp(version))


def is_node_ready() -> bool:
    return _is_stamped(NODE_HOME, node_stamp())


def python_stamp(version: str) -> str:
    # The interpreter too: an environment made from another one is another environment.
    return _digest(lock_of(version).read_bytes(), sys.version.encode())


def node_stamp() -> str:
    sources = (NODE_SOURCES / name for name in ("package.json", "package-lock.json"))
    return _digest(*(source.read_bytes() for source in sources))


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _is_stamped(home: Path, stamp: str) -> bool:
    file = home / "stamp"
    return file.is_file() and file.read_text() == stamp


def prepare_python(version: str) -> None:
    """An environment with exactly what the lock file says."""
    home, uv = home_of(version), _uv()
    home.parent.mkdir(parents=True, exist_ok=True)
    _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home))
    target = ("--python", str(python_of(version)))
    lock = str(lock_of(version))
    _run(uv, "pip", "sync", "--quiet", "--require-hashes", *target, lock)
    (home / "stamp").write_text(python_stamp(version))


def prepare_node() -> None:
    """The same by npm, in a folder of its own: `npm ci` writes beside its lock file."""
    NODE_HOME.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copyfile(NODE_SOURCES / name, NODE_HOME / name)
    _run(
        "npm", "ci", "--loglevel=error", "--ignore-scripts", "--prefix", str(NODE_HOME)
    )
    (NODE_HOME / "stamp").write_text(node_stamp())


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        sys.exit("uv is missing: install the development requirements first")
    return found


def _run(*command: str) -> None:
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        sys.exit(f"{' '.join(command)} ended with status {status}")


def main() -> None:
    for version in PYTHON_VERSIONS:
        with _Progress(f"openai-python {version}") as progress:
            if not is_python_ready(version):
                prepare_python(version)
                progress.note = "installed"
    with _Progress(f"openai-node {NODE_VERSION}") as progress:
        if is_node_skipped():
            progress.note = f"left out ({SKIP_NODE})"
        elif shutil.which("node") is None or shutil.which("npm") is None:
            # The Python clients can still be tested; the Node tests fail by themselves.
            progress.note = f"NOT INSTALLED: {NODE_HINT}"
        elif not is_node_ready():
            prepare_node()
            progress.note = "installed"


class _Progress:
    """One line for each client: what it is, what was done, how long it took."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.note = "ready"

    def __enter__(self) -> _Progress:
        self._started_s = time.monotonic()
        sys.stdout.write(f"{self.what} ... ")
        sys.stdout.flush()
        return self

    def __exit__(self, *_: object) -> None:
        took_s = time.monotonic() - self._started_s
        sys.stdout.write(f"{self.note} ({took_s:.1f} s)\n")


if __name__ == "__main__":
    main()
