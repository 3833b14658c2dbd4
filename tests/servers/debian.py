"""
Programs that the machine has, or that Debian's packages bring without root.

`python -m tests.servers.debian prometheus` unpacks one below `.cache/debian`, where the
machine has none itself. Safe to repeat.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
UNPACKED: Final = ROOT / ".cache" / "debian"
_PACKAGES: Final = ROOT / ".cache" / "debian-packages"

# Libraries that a plain Debian may lack.
_NEEDS: Final = {
    "wrk": ("libluajit-5.1-2",),
    "buildah": ("libassuan0", "libdevmapper1.02.1", "libgpgme11", "libsubid4"),
}
_INSTALL_WITHIN_S: Final = 300.0
_REASON_CHARS: Final = 300


class ProgramMissing(Exception):
    """A program that is not here and could not be installed."""


def found_or_skip(find: Callable[[str], str], name: str, skip: str, how: str) -> str:
    """What `find` finds; skips the test only where the variable `skip` asks for it."""
    try:
        return find(name)
    except ProgramMissing as missing:
        if os.environ.get(skip, "") not in {"", "0"}:
            pytest.skip(str(missing))
        raise AssertionError(
            f"{missing}: run `python -m tests.servers.{how}`, or set {skip}=1 to leave"
            " these tests out"
        ) from None


def program(name: str) -> str:
    """The path of a program: the machine's own, or the unpacked one."""
    # Debian keeps servers where an ordinary user's PATH does not look.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found:
        return found
    for folder in ("usr/bin", "usr/sbin"):
        unpacked = UNPACKED / folder / name
        if unpacked.is_file():
            return str(unpacked)
    raise ProgramMissing(f"{name} is not on the PATH and was not unpacked")


def prepare(package: str) -> bool:
    """Unpack a package whose program the machine lacks; false if it was there."""
    try:
        program(package)
    except ProgramMissing:
        pass  # which is what there is to do
    else:
        return False
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise ProgramMissing(f"{package} is not on the PATH, and there is no apt-get")
    folder = _PACKAGES / package
    folder.mkdir(parents=True, exist_ok=True)
    run("apt-get", "-qq", "download", package, *_NEEDS.get(package, ()), folder=folder)
    for each in sorted(folder.glob("*.deb")):
        run("dpkg", "-x", str(each), str(UNPACKED), folder=folder)
    program(package)
    return True


def library_path() -> dict[str, str]:
    """Lets unpacked programs find the libraries unpacked with them."""
    folders = [str(folder) for folder in sorted(UNPACKED.glob("usr/lib/*-linux-*"))]
    return {"LD_LIBRARY_PATH": os.pathsep.join(folders)} if folders else {}


def run(*command: str, folder: Path, within_s: float = _INSTALL_WITHIN_S) -> None:
    """Run an installing command; ProgramMissing says in one line why it failed."""
    try:
        subprocess.run(
            command,
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=within_s,
        )
    except subprocess.CalledProcessError as problem:
        said = " ".join(problem.stderr.split())[:_REASON_CHARS] or "no reason given"
        name = Path(command[0]).name
        raise ProgramMissing(f"{name} failed: {said}") from None
    except subprocess.TimeoutExpired:
        raise ProgramMissing(f"{command[0]} took longer than {within_s:g} s") from None


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        try:
            note = "unpacked" if prepare(wanted) else "ready"
        except ProgramMissing as missing:
            sys.exit(f"{wanted}: {missing}")
        print(f"{wanted} ... {note}", flush=True)
