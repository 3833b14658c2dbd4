"""Renders the chart by the real Helm, each set of values once."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from tests.servers.helm import helm_program

Json: TypeAlias = dict[str, Any]

CHART: Final = Path(__file__).parents[2] / "helm" / "llmtune-gateway"
PRESETS: Final = tuple(sorted(file.name for file in (CHART / "ci").glob("*.yaml")))
# The first has the cluster's name, the second what it is.
RELEASE: Final = "rel"
NAMESPACE: Final = "team"
NAME: Final = f"{RELEASE}-llmtune-gateway"

_RENDER_WITHIN_S: Final = 30


class _Strict(yaml.SafeLoader):
    """YAML in which a name given twice is an error, as it is for Kubernetes."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, Any]:
        names = [self.construct_object(name, deep=True) for name, _ in node.value]
        twice = {name for name in names if names.count(name) > 1}
        assert not twice, f"rendered twice: {twice}"
        return super().construct_mapping(node, deep)


class Refused(Exception):
    """Helm renders nothing; the text says why."""


class Rendered:
    """The manifests of one release."""

    def __init__(self, manifests: list[Json]) -> None:
        self.all = manifests

    def kinds(self) -> set[str]:
        return {manifest["kind"] for manifest in self.all}

    def of(self, kind: str, name: str = NAME) -> Json:
        """The one of this kind and name."""
        (found,) = [
            each
            for each in self.all
            if (each["kind"], each["metadata"]["name"]) == (kind, name)
        ]
        return found

    @property
    def container(self) -> Json:
        """The gateway's."""
        found: Json = self.of("Deployment")["spec"]["template"]["spec"]["containers"][0]
        return found

    @property
    def variables(self) -> dict[str, str]:
        """What the gateway is told, put together as Kubernetes does."""
        told: dict[str, str] = dict(self.of("ConfigMap")["data"])
        for each in self.container["env"]:
            if "value" in each:
                told[each["name"]] = each["value"]
            elif "secretKeyRef" in each["valueFrom"]:
                told[each["name"]] = "from-a-secret"
        for name, value in told.items():
            told[name] = value.replace("$(REDIS_PASSWORD)", "from-a-secret")
        return told


@cache
def preset(name: str) -> Rendered:
    """A file of `ci/`."""
    return Rendered(_render("--values", str(CHART / "ci" / name)))


def for_kubernetes(version: str) -> Rendered:
    """The defaults, as Helm renders them in front of a cluster of this version."""
    return Rendered(_render("--kube-version", version))


def rendered(**values: Any) -> Rendered:
    """These values over the defaults."""
    return _rendered(json.dumps(values))


@cache
def _rendered(values: str) -> Rendered:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        # JSON is YAML.
        file.write(values)
        file.flush()
        return Rendered(_render("--values", file.name))


def notes(**values: Any) -> str:
    """What `helm install` says at its end; nothing is installed."""
    told = _helm("install", "--dry-run=client", "--set-json", *_assigned(values))
    return told.partition("NOTES:\n")[2]


def _assigned(values: Json) -> list[str]:
    return [",".join(f"{name}={json.dumps(each)}" for name, each in values.items())]


def _render(*options: str) -> list[Json]:
    told = _helm("template", *options)
    return [each for each in yaml.load_all(told, _Strict) if each]


def _helm(action: str, *options: str) -> str:
    done = subprocess.run(
        [helm_program(), action, RELEASE, str(CHART), "-n", NAMESPACE, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=_RENDER_WITHIN_S,
    )
    if done.returncode != 0:
        raise Refused(done.stderr)
    return done.stdout
