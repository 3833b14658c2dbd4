"""
The image, built from its Dockerfile and run as it will be, without a registry.

    python -m tests.proofs.image [--again]

buildah builds every stage of the Dockerfile itself, on a root that debootstrap makes in
place of the Python image. What comes out is run read-only, as its own user, in a
network of its own; `image_running` says what is then looked at. Needs root on Linux,
and says so where it has not got it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gateway import __version__
from tests.image.buildah import CACHE, Buildah
from tests.image.standin import prepare_standin
from tests.servers import debian

IMAGE: Final = "llmtune-gateway:proof"

_BUILD_WITHIN_S: Final = 600.0
_RUN_WITHIN_S: Final = 240.0
_ASK_WITHIN_S: Final = 20.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entered", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--again", action="store_true", help="look at the last image; build none"
    )
    args = parser.parse_args(arguments)
    if args.entered:
        return prove(builds=not args.again)
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    # Whatever happens to this process, its mounts end with its namespace.
    return subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private"),
            *(sys.executable, "-m", "tests.proofs.image", "--entered"),
            *(["--again"] if args.again else []),
        ],
        check=False,
    ).returncode


def why_not() -> str | None:
    """Why no image can be built and run here; None if one can."""
    if not sys.platform.startswith("linux"):
        return "the image is proved on Linux only"
    if os.geteuid() != 0:
        return "building and mounting an image needs root"
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return "util-linux (unshare, setpriv) is not here"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--fork", "true"],
        check=False,
        capture_output=True,
        timeout=_ASK_WITHIN_S,
    )
    if tried.returncode:
        return "this root may make no namespaces, as in most containers"
    try:
        for package in ("debootstrap", "buildah"):
            debian.prepare(package)
    except debian.ProgramMissing as missing:
        return str(missing)
    return None


def prove(*, builds: bool) -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gw-image-") as folder:
        scratch = Path(folder)
        buildah = Buildah(scratch)
        if builds or not buildah.has(IMAGE):
            _build(buildah, scratch)
        with buildah.mounted(IMAGE) as root:
            return _look(root, buildah.config(IMAGE), scratch)


def _build(buildah: Buildah, scratch: Path) -> None:
    begun_s = time.monotonic()
    base = prepare_standin(buildah)
    based_s = time.monotonic()
    print(f"base: {base}, {based_s - begun_s:.0f} s", flush=True)
    arguments, pip_conf = _arguments(buildah.digest(base)), _pip_conf(scratch)
    try:
        buildah.build(IMAGE, arguments, pip_conf, within_s=_BUILD_WITHIN_S)
    finally:
        buildah.forget_unnamed()
    print(f"built: {IMAGE}, {time.monotonic() - based_s:.0f} s", flush=True)


def _look(root: Path, config: dict[str, object], scratch: Path) -> int:
    """In a network that has nothing but its loopback, so the ports are all free."""
    (scratch / "config.json").write_text(json.dumps(config))
    return subprocess.run(
        [
            *("unshare", "--net", sys.executable, "-m", "tests.proofs.image_running"),
            *(str(root), str(scratch / "config.json")),
        ],
        check=False,
        timeout=_RUN_WITHIN_S,
    ).returncode


def _arguments(digest: str) -> dict[str, str]:
    epoch = _git("log", "-1", "--format=%ct")
    return {
        "PYTHON_NAME": "localhost/python-standin",
        "PYTHON_DIGEST": digest,
        "SOURCE_DATE_EPOCH": epoch,
        "VERSION": __version__,
        "REVISION": _git("rev-parse", "HEAD"),
        "CREATED": datetime.fromtimestamp(int(epoch), UTC).isoformat(),
        "SOURCE": "",
    }


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments],
        cwd=debian.ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=_ASK_WITHIN_S,
    ).stdout.strip()


def _pip_conf(scratch: Path) -> Path:
    """This machine's index, and the authorities that its proxy may be signed by."""
    lines = ["[global]", "cert = /etc/ssl/certs/ca-certificates.crt"]
    if index := os.environ.get("PIP_INDEX_URL"):
        lines.append(f"index-url = {index}")
    path = scratch / "pip.conf"
    path.write_text("\n".join([*lines, ""]))
    return path


if __name__ == "__main__":
    sys.exit(main())
