"""
Runs an image's command as a container engine would, with util-linux alone.

As the image's user, with its environment, in namespaces of its own, as process 1, on a
root that is mounted read-only; /tmp is a tmpfs. No capability is left to it, and none
can be had. Needs root.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Final

# Every mount is made in the container's own namespace, and ends with it.
_ENTER: Final = """
set -eu
root=$1 user=$2 folder=$3 files=$4
shift 4
mount --bind "$root" "$root"
mount --bind "$files" "$root/mnt"
mount -o remount,bind,ro "$root/mnt"
for each in null zero random urandom; do
  mount --bind "/dev/$each" "$root/dev/$each"
done
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777,size=64m,nosuid,nodev tmpfs "$root/tmp"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" \
  /usr/bin/env --ignore-environment --chdir="$folder" "$@"
"""
_STOP_WITHIN_S: Final = 20.0
_RUN_WITHIN_S: Final = 60.0


class Image:
    """A mounted image and what it says of how to run it; `files` are seen in /mnt."""

    def __init__(self, root: Path, config: dict[str, Any], files: Path) -> None:
        self._root = root
        self.config = config
        self._files = files

    def start(self, *command: str, **environment: str) -> Container:
        process = subprocess.Popen(
            self._command(command, environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return Container(process)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(command, {}),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RUN_WITHIN_S,
        )

    def _command(
        self, command: tuple[str, ...], environment: dict[str, str]
    ) -> list[str]:
        return [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc"),
            *("sh", "-c", _ENTER, "enter", str(self._root), self.config["User"]),
            *(self.config["WorkingDir"], str(self._files)),
            *self.config["Env"],
            *(f"{name}={value}" for name, value in environment.items()),
            *command,
        ]


class Container:
    """A started command; stopped by SIGTERM to its process 1, as an engine does."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def status(self) -> dict[str, str]:
        """/proc's words of its process 1."""
        lines = Path(f"/proc/{self._first()}/status").read_text().splitlines()
        return {
            name: value.strip() for name, _, value in (s.partition(":") for s in lines)
        }

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> tuple[int, str]:
        """Its exit code and what it wrote; killed if it does not end by itself."""
        if self.is_running:
            os.kill(self._first(), signal.SIGTERM)
        try:
            wrote, _ = self._process.communicate(timeout=_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            wrote, _ = self._process.communicate()
        return self._process.returncode, wrote.decode(errors="replace")

    def kill(self) -> None:
        self._process.kill()

    def _first(self) -> int:
        own = self._process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return int(children[0])
