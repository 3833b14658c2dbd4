"""
Stands in for `python:3.11-slim-bookworm` where there is no registry to pull it from.

Debian bookworm by debootstrap, with Debian's Python 3.11 and, as in that image, a pip
in /usr/local, no bytecode, and no rule against installing. What differs: Python lies in
/usr/bin and is Debian's build, and the tree is larger.
"""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Final

from tests.image.buildah import CACHE, Buildah
from tests.servers import debian

_SUITE: Final = "bookworm"
_MIRROR: Final = "http://deb.debian.org/debian"
# debootstrap does not resolve what one package provides for another.
_PACKAGES: Final = "ca-certificates,python3,python3-distutils,python3-venv"
_WITHIN_S: Final = 300.0
_ENVIRONMENT: Final = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)
# Run in the new root by its own shell.
_LIKE_SLIM: Final = """
set -eu
rm /usr/lib/python3.11/EXTERNALLY-MANAGED
set -- /usr/share/python-wheels/pip-*.whl
python3 "$1/pip" --isolated install --quiet --no-index --root-user-action ignore \
  --find-links /usr/share/python-wheels pip setuptools
rm -r /usr/share/python-wheels /var/cache/apt/archives /var/lib/apt/lists
find / -xdev -name '*.pyc' -delete
"""


def prepare_standin(buildah: Buildah) -> str:
    """The stand-in's name in buildah's store; made once, for it is never written to."""
    recipe = "\n".join([_SUITE, _MIRROR, _PACKAGES, _LIKE_SLIM])
    image = f"python-standin:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not buildah.has(image):
        root = CACHE / "standin"
        shutil.rmtree(root, ignore_errors=True)
        try:
            _debootstrap(root)
            _finish(root)
            buildah.import_root(root, image, _ENVIRONMENT)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    return image


def _debootstrap(root: Path) -> None:
    program = debian.program("debootstrap")
    library = []
    if program.startswith(str(debian.UNPACKED)):
        library = [f"DEBOOTSTRAP_DIR={debian.UNPACKED}/usr/share/debootstrap"]
    root.mkdir(parents=True)
    debian.run(
        *("env", *library, "sh", program, "--variant=minbase"),
        *(f"--include={_PACKAGES}", _SUITE, str(root), _MIRROR),
        folder=CACHE,
        within_s=_WITHIN_S,
    )


def _finish(root: Path) -> None:
    subprocess.run(
        ["chroot", str(root), "/bin/sh", "-c", _LIKE_SLIM],
        check=True,
        env=dict(each.split("=", 1) for each in _ENVIRONMENT),
        timeout=_WITHIN_S,
    )
    # A company's proxy may be signed by an authority that Debian does not know.
    trusted = ssl.get_default_verify_paths().cafile
    if trusted:
        shutil.copy(trusted, root / "etc/ssl/certs/ca-certificates.crt")
