"""
buildah as the prover uses it: no registry, no daemon, its own store below `.cache`.

The machine's own, or Debian's package unpacked. Needs root, and a mount namespace of
its own, in which every mount ends with the process that made it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.servers import debian

CACHE: Final = debian.ROOT / ".cache" / "image"

# Nothing here is signed, and nothing here is pulled.
_TRUST: Final = {"default": [{"type": "insecureAcceptAnything"}]}
# A storage command; a build has its own bound.
_WITHIN_S: Final = 120.0


class Buildah:
    """The command with the options that every call of it takes."""

    def __init__(self, scratch: Path) -> None:
        self._command = [
            debian.program("buildah"),
            *("--root", str(CACHE / "storage")),
            *("--runroot", str(scratch / "run")),
        ]
        self._policy = scratch / "policy.json"
        self._policy.write_text(json.dumps(_TRUST))
        registries = scratch / "registries.conf"
        registries.write_text("unqualified-search-registries = []\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(scratch),
            "CONTAINERS_REGISTRIES_CONF": str(registries),
        }
        _show_unpacked_libraries(self._command[0])

    def has(self, image: str) -> bool:
        listed = self._run("images", "--format", "{{.Name}}:{{.Tag}}")
        return f"localhost/{image}" in listed.split()

    def import_root(self, root: Path, image: str, environment: Sequence[str]) -> None:
        """Make an image of a directory tree."""
        container = self._run("from", "scratch").strip()
        self._run("add", "--quiet", container, str(root), "/")
        for each in environment:
            self._run("config", "--env", each, container)
        self._run("commit", "--quiet", "--rm", *self._trusting(), container, image)

    def digest(self, image: str) -> str:
        return self._run("images", "--format", "{{.Digest}}", image).strip()

    def build(
        self, image: str, arguments: dict[str, str], secret: Path, *, within_s: float
    ) -> None:
        """Build the repository's Dockerfile, every instruction anew."""
        given = [
            f"--build-arg={name}={value}" for name, value in sorted(arguments.items())
        ]
        self._run(
            *("build", "--quiet", "--no-cache", "--pull-never", *self._trusting()),
            # Docker's format: OCI's has no place for a health check.
            *("--format", "docker", "--isolation", "chroot", "--network", "host"),
            *("--secret", f"id=pip_conf,src={secret}", "--tag", image),
            *given,
            str(debian.ROOT),
            within_s=within_s,
        )

    def config(self, image: str) -> dict[str, Any]:
        """What the image says of how to run it."""
        told = json.loads(self._run("inspect", "--type", "image", image))
        config: dict[str, Any] = told["Docker"]["config"]
        return config

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """The image's files, in a place that nothing writes to."""
        container = self._run("from", "--pull-never", *self._trusting(), image).strip()
        try:
            yield Path(self._run("mount", container).strip())
        finally:
            self._run("umount", container)
            self._run("rm", container)

    def forget_unnamed(self) -> None:
        """Stages, and images whose name a newer one has taken."""
        self._run("rmi", "--prune", "--force")

    def _trusting(self) -> tuple[str, str]:
        return "--signature-policy", str(self._policy)

    def _run(self, *arguments: str, within_s: float = _WITHIN_S) -> str:
        done = subprocess.run(
            [*self._command, *arguments],
            check=False,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
        )
        if done.returncode:
            last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            raise RuntimeError(f"buildah {arguments[0]} failed:\n{last}")
        return done.stdout


def _show_unpacked_libraries(program: str) -> None:
    """
    Lay unpacked libraries under the machine's own, in this mount namespace only.

    LD_LIBRARY_PATH does not do: buildah starts itself anew with a clean environment.
    """
    if not program.startswith(str(debian.UNPACKED)):
        return
    for unpacked in debian.UNPACKED.glob("usr/lib/*-linux-gnu"):
        own = Path("/usr/lib") / unpacked.name
        lower = f"lowerdir={own}:{unpacked}"
        debian.run(
            *("mount", "-t", "overlay", "-o", lower, "overlay", str(own)),
            folder=debian.ROOT,
        )
