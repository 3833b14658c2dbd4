"""
Processes of a run: pinned to a core, measured by what /proc says, ended by their pid.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

GATEWAY_CORE: Final = 0
# Where the runner, the load, the upstreams and Redis are.
LOAD_CORE: Final = 1

STOP_WITHIN_S: Final = 5.0
_ROOT: Final = Path(__file__).parents[1]
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_LOG_TAIL_BYTES: Final = 2000


class StartFailed(Exception):
    """Something that was started does not answer."""


class Stat(NamedTuple):
    """What the run needs of /proc/<pid>/stat."""

    parent: int
    cpu_s: float


class Process:
    """
    One child and its descendants, which do not outlive this process.

    Its own output goes nowhere, as an access line of a gateway that is measured should
    cost the line and not a disk; what it says on standard error is kept for the reason
    of a failed start.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        core: int,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        pipes: bool = False,
        **options: Any,
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                [*_ends_with_us(), "taskset", "-c", str(core), *command],
                env=_environment(environment or {}),
                cwd=folder,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stderr=log,
                # Ctrl-C is for the runner, which then ends its children in order.
                start_new_session=True,
                **options,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def is_running(self) -> bool:
        return self.popen.poll() is None

    def log_tail(self) -> str:
        """The last line of what it said on standard error."""
        said = self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        lines = said.strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def cpu_s(self) -> float:
        """CPU seconds of the whole tree so far."""
        return sum(stat.cpu_s for _, stat in self._tree())

    def rss_bytes(self) -> int:
        """Resident memory of the whole tree."""
        return sum(_rss_bytes(pid) for pid, _ in self._tree())

    def wait_until_answers(self, answers: Callable[[], bool], within_s: float) -> None:
        """Wait until it serves, or say why it does not."""
        deadline_s = time.monotonic() + within_s
        while not answers():
            if not self.is_running:
                raise StartFailed(f"{self.name} ended: {self.log_tail()}")
            if time.monotonic() > deadline_s:
                raise StartFailed(f"{self.name} did not answer within {within_s:.0f} s")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask the tree to end, and make it if it does not."""
        tree = [pid for pid, _ in self._tree()]
        if self.is_running:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        # Ours to end too: the descendants of a parent that did not wait for them. A pid
        # is only trusted while it is still in the child's own session.
        for pid in tree:
            if pid != self.pid and _session_of(pid) == self.pid:
                os.kill(pid, signal.SIGKILL)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()

    def _tree(self) -> Iterator[tuple[int, Stat]]:
        found = _stats()
        family = {self.pid}
        # A child's pid may be smaller than its parent's once pids have wrapped around.
        while True:
            children = {p for p, stat in found.items() if stat.parent in family}
            if children <= family:
                break
            family |= children
        return ((pid, found[pid]) for pid in family if pid in found)


@contextmanager
def running(process: Process) -> Iterator[Process]:
    """The process, ended on the way out."""
    with ExitStack() as held:
        held.callback(process.stop)
        yield process


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    # Settings of the shell that the run was started from would not be those it reports,
    # and a proxy or a collector of its own would be asked outside.
    own = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**own, "PYTHONPATH": str(_ROOT), **more}


def _ends_with_us() -> list[str]:
    # The kernel kills the child when we die, however we die.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _stats() -> dict[int, Stat]:
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            stat = _stat_of(entry.name)
            if stat is not None:
                found[int(entry.name)] = stat
    return found


def _stat_of(pid: str) -> Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return parse_stat(text)


def core_busy_s(core: int) -> float:
    """CPU seconds that a core has been busy with anything, or was taken by the host."""
    return parse_core(Path("/proc/stat").read_text(), core)


def parse_core(text: str, core: int) -> float:
    """Read /proc/stat: all of a core's time but idle and waiting for disks."""
    line = next(line for line in text.splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def parse_stat(text: str) -> Stat:
    """
    Read /proc/<pid>/stat: the parent, and user and system time with reaped children's.

    The command's name, in parentheses, may itself hold spaces and parentheses.
    """
    fields = text.rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11:15])
    return Stat(int(fields[1]), ticks / _TICKS_PER_S)


def _rss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    line = next(line for line in text.splitlines() if line.startswith("Rss:"))
    return int(line.split()[1]) * 1024


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
