"""
What is looked at in a built image, while it runs and around it.

    unshare --net python -m tests.proofs.image_running ROOT CONFIG

A simulator and the gateway, both from the image, answer in this network alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import re
import socket
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from gateway import __version__
from tests.image.container import Container, Image
from tests.proofs.check import Check, report

API: Final = 8080
UPSTREAM: Final = 9100
KEY: Final = "a-key-of-the-proof"
USER: Final = "10001"
PYTHON: Final = "/opt/llmtune/bin/python"
SBOM: Final = "usr/share/llmtune/llmtune-gateway.cdx.json"

STARTS: Final = 5
# A start that takes longer is felt where replicas follow the load.
STARTED_WITHIN_S: Final = 1.0
STOPPED_WITHIN_S: Final = 5.0
_PATIENCE_S: Final = 20.0
_LOOK_EVERY_S: Final = 0.005
_MIB: Final = 1024 * 1024

_TOOLS: Final = re.compile(
    r"(pip|uv|uvx|gcc|g\+\+|cc|c\+\+|cpp|clang|ld|as|make|cmake|cargo|rustc|hatch(ling)?"
    r"|cyclonedx-py|git)[\d.-]*"
)
_INSTALLED: Final = """
import importlib.metadata as m, json
print(json.dumps({d.name: d.version for d in m.distributions()}))
"""
_IMPORTABLE: Final = """
import importlib.util as u, json
names = ["pip", "setuptools", "wheel", "ensurepip", "uv", "hatchling", "cyclonedx_py"]
print(json.dumps([name for name in names if u.find_spec(name)]))
"""
_WRITES: Final = """
import json, os, pathlib
apart = ("/proc", "/sys", "/dev", "/tmp")
tried, written = 0, []
for folder, folders, _ in os.walk("/"):
    folders[:] = [f for f in folders if not os.path.join(folder, f) in apart]
    tried += 1
    try:
        pathlib.Path(folder, ".proof").write_bytes(b"")
        written.append(folder)
    except OSError:
        pass
pathlib.Path("/tmp/.proof").write_bytes(b"x")
print(json.dumps([tried, written]))
"""
_UNCOMPILED: Final = """
import json, os, sys
import gateway.app, gateway.cli, gateway.server
cached = [getattr(module, "__cached__", None) for module in list(sys.modules.values())]
print(json.dumps([path for path in cached if path and not os.path.exists(path)]))
"""


class Look:
    """One image, and what is found in it."""

    def __init__(self, root: Path, image: Image) -> None:
        self._root = root
        self._image = image
        self._command = [*image.config["Entrypoint"], *image.config["Cmd"]]

    def all(self) -> list[Check]:
        simulator = self._image.start(
            "llmtune-gateway", "simulate", "--port", str(UPSTREAM)
        )
        try:
            _until_answers(simulator, UPSTREAM, "/")
            return [*self._files(), *self._starts(), *self._serving()]
        finally:
            simulator.stop()

    def _files(self) -> list[Check]:
        return [
            self._contents_check(),
            self._tools_check(),
            self._writes_check(),
            self._bytecode_check(),
            self._labels_check(),
            self._size_check(),
        ]

    def _contents_check(self) -> Check:
        installed = {_plain(n): v for n, v in self._asked(_INSTALLED).items()}
        sbom = json.loads((self._root / SBOM).read_text(encoding="utf-8"))
        listed = {
            _plain(each["name"]): each.get("version", "")
            for each in [*sbom["components"], sbom["metadata"]["component"]]
        }
        differing = sorted(set(installed.items()) ^ set(listed.items()))
        figure = f"{len(installed)} distributions, {sbom['bomFormat']}"
        if differing:
            figure += f"; not the same in both: {differing}"
        return Check("the SBOM lists what is installed", figure, not differing)

    def _tools_check(self) -> Check:
        found = [
            str(path.relative_to(self._root))
            for folder in (
                "bin",
                "sbin",
                "usr/*bin",
                "usr/local/*bin",
                "opt/llmtune/bin",
            )
            for each in self._root.glob(folder)
            for path in each.iterdir()
            if _TOOLS.fullmatch(path.name)
        ]
        # The environment's Python, and the one of the base that it was made from.
        base = self._asked("import json, sys; print(json.dumps(sys._base_executable))")
        found += [*self._asked(_IMPORTABLE), *self._asked(_IMPORTABLE, base)]
        return Check("no installer, no compiler", str(found or "none"), not found)

    def _writes_check(self) -> Check:
        tried, written = self._asked(_WRITES)
        figure = f"{tried} folders tried, written in {written or 'none'}"
        return Check("nothing but /tmp can be written", figure, not written)

    def _bytecode_check(self) -> Check:
        missing = self._asked(_UNCOMPILED)
        figure = str(missing[:5] or "all of it is there")
        return Check("no start compiles", figure, not missing)

    def _labels_check(self) -> Check:
        labels = self._image.config["Labels"]
        version = labels["org.opencontainers.image.version"]
        return Check("it is labelled with its version", version, version == __version__)

    def _size_check(self) -> Check:
        whole, own = _size(self._root), _size(self._root / "opt/llmtune")
        figure = (
            f"{own:.0f} MiB of ours, {whole:.0f} MiB with the stand-in for its base"
        )
        return Check("size", figure)

    def _starts(self) -> list[Check]:
        took_s = []
        for _ in range(STARTS):
            begun_s = time.monotonic()
            gateway = self._serve()
            try:
                _until_answers(gateway, API, "/livez")
                took_s.append(time.monotonic() - begun_s)
            finally:
                gateway.stop()
        median_s = statistics.median(took_s)
        figure = f"{median_s:.2f} s, median of {STARTS}; slowest {max(took_s):.2f} s"
        return [
            Check("from start to /livez", figure, median_s < STARTED_WITHIN_S),
        ]

    def _serving(self) -> list[Check]:
        gateway = self._serve()
        try:
            _until_answers(gateway, API, "/livez")
            found = [
                self._health_check("healthy while it serves", 0),
                _completion_check(stream=False),
                _completion_check(stream=True),
                *_process_checks(gateway.status()),
            ]
        finally:
            begun_s = time.monotonic()
            code, wrote = gateway.stop()
        took_s = time.monotonic() - begun_s
        is_good = code == 0 and took_s < STOPPED_WITHIN_S
        figure = f"exit code {code} after {took_s:.2f} s"
        if not is_good:
            figure += f"; it wrote: {wrote[-500:]}"
        found.append(Check("SIGTERM ends it", figure, is_good))
        found.append(self._health_check("unhealthy once it has ended", 1))
        return found

    def _health_check(self, name: str, expected: int) -> Check:
        kind, *command = self._image.config["Healthcheck"]["Test"]
        done = self._image.run(*command)
        said = " ".join((done.stdout + done.stderr).split())[-160:]
        figure = f"exit code {done.returncode}" + (f", {said}" if said else "")
        return Check(name, figure, kind == "CMD" and done.returncode == expected)

    def _serve(self) -> Container:
        return self._image.start(
            *self._command,
            GATEWAY_UPSTREAM_URL=f"http://127.0.0.1:{UPSTREAM}/v1",
            GATEWAY_UPSTREAM_API_KEY="sk_test_proof",
            GATEWAY_KEYS_FILE="/mnt/keys.yaml",
        )

    def _asked(self, script: str, python: str = PYTHON) -> Any:
        """What a script that runs in the image prints."""
        done = self._image.run(python, "-c", script)
        if done.returncode:
            raise RuntimeError(done.stderr[-800:])
        return json.loads(done.stdout)


def _completion_check(*, stream: bool) -> Check:
    name = "a streamed completion" if stream else "a completion"
    asked = {
        "model": "meta-llama/Llama-3.3-70B-Instruct",
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 20,
        "stream": stream,
    }
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    status, body = _ask(
        API, "POST", "/v1/chat/completions", json.dumps(asked).encode(), headers
    )
    if status != http.client.OK:
        return Check(name, f"{status} {body[:300]!r}", is_good=False)
    if stream:
        events = body.decode().count("data: ")
        is_whole = body.rstrip().endswith(b"data: [DONE]")
        return Check(name, f"{status}, {events} events", events > 1 and is_whole)
    answer = json.loads(body)
    tokens, said = answer["usage"]["total_tokens"], answer["choices"][0]["message"]
    is_good = tokens > 0 and bool(said["content"])
    return Check(name, f"{status}, {tokens} tokens", is_good)


def _process_checks(status: dict[str, str]) -> list[Check]:
    ids = [*status["Uid"].split(), *status["Gid"].split()]
    rights = int(status["CapEff"], 16) | int(status["CapPrm"], 16)
    lone = status["Groups"] == "" and status["NoNewPrivs"] == "1"
    return [
        Check("it runs as 10001", f"{ids[0]}:{ids[4]}", set(ids) == {USER}),
        Check("it has no capability and gets none", f"{rights:x}", not rights and lone),
        Check("resident memory", f"{int(status['VmRSS'].split()[0]) / 1024:.0f} MiB"),
    ]


def _until_answers(container: Container, port: int, path: str) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        if not container.is_running:
            raise RuntimeError(f"it ended: {container.stop()[1][-1000:]}")
        try:
            _ask(port, "GET", path, None, {})
        except OSError:
            time.sleep(_LOOK_EVERY_S)
        else:
            return
    wrote = container.stop()[1]
    raise TimeoutError(f"port {port} did not answer; it wrote: {wrote[-1000:]}")


def _ask(
    port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _size(folder: Path) -> float:
    """MiB of regular files; each link of one counts once."""
    seen = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            told = path.stat()
            seen[told.st_dev, told.st_ino] = told.st_size
    return sum(seen.values()) / _MIB


def raise_loopback() -> None:
    """A new network has its loopback down; `ip link set lo up` may be missing."""
    # SIOCGIFFLAGS, SIOCSIFFLAGS and IFF_UP of linux/sockios.h and linux/if.h.
    get_flags, set_flags, is_up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sH14x", b"lo", 0)
        told = fcntl.ioctl(any_socket, get_flags, asked)
        _, flags = struct.unpack("16sH14x", told)
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sH14x", b"lo", flags | is_up))


def main(root: str, config: str) -> int:
    raise_loopback()
    with tempfile.TemporaryDirectory(prefix="gw-image-files-") as folder:
        files = Path(folder)
        # The image's user is nobody here, and has to read them.
        files.chmod(0o755)
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        (files / "keys.yaml").write_text(
            f"keys: [{{sha256: {digest}, workspace: proof, plan: growth}}]\n"
        )
        told = json.loads(Path(config).read_text())
        return report(Look(Path(root), Image(Path(root), told, files)).all())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
