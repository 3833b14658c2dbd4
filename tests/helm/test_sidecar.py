"""The gateway next to an application: the patches, merged by the real kubectl."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import kubernetes_validate
import pytest
import yaml

from gateway.server import FAREWELL_S
from gateway.settings import Settings, load_settings, unknown_variables
from tests.helm.rendering import CHART, NAME, Json, preset, rendered
from tests.helm.test_presets import VERSIONS
from tests.servers.helm import kubectl_program

DOCS: Final = Path(__file__).parents[2] / "docs"
ISTIO_PORTS: Final = range(15000, 15100)
ISTIO_UID: Final = 1337
FORMS: Final = ("native", "classic")

APPLICATION: Final[Json] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "shop"},
    "spec": {
        "selector": {"matchLabels": {"app": "shop"}},
        "template": {
            "metadata": {"labels": {"app": "shop", "llmtune.io/workspace": "shop"}},
            "spec": {
                "initContainers": [{"name": "migrate", "image": "shop:1"}],
                "containers": [{"name": "shop", "image": "shop:1"}],
                "volumes": [{"name": "data", "emptyDir": {}}],
            },
        },
    },
}


# What a release may have besides, all at once.
RICH: Final[Json] = {
    "image": {"pullSecrets": ["registry"]},
    "redis": {
        "url": "rediss://redis.data.svc:6380/0",
        "existingSecret": "gateway-redis",
        "sealingExistingSecret": "gateway-sealing",
    },
    "policies": {"plans": {"growth.yaml": "plan: growth"}},
    "settings": {"GATEWAY_UPSTREAM_TRANSPORT": "stock"},
    "resources": {"requests": {"cpu": "100m"}},
}


def patch_text(form: str, **values: Json) -> str:
    """The patch of `ci/sidecar-injection-values.yaml`, and these values over it."""
    preset_values = (CHART / "ci/sidecar-injection-values.yaml").read_text()
    sidecar = yaml.safe_load(preset_values) | values
    found: str = rendered(**sidecar).of("ConfigMap", f"{NAME}-sidecar")["data"][
        f"{form}.yaml"
    ]
    return found


def container_of(form: str, **values: Json) -> Json:
    pod = yaml.safe_load(patch_text(form, **values))["spec"]["template"]["spec"]
    found: Json = pod["initContainers" if form == "native" else "containers"][0]
    return found


def sidecar_variables(**values: Json) -> dict[str, str]:
    """As the gateway is told them in a pod of the workspace `shop`."""
    return {
        each["name"]: each.get("value", "shop")
        for each in container_of("native", **values)["env"]
    }


def sidecar_settings() -> Settings:
    return load_settings(sidecar_variables())


@cache
def patched(patch: str) -> Json:
    """The application as `kubectl patch` merges it, without asking a cluster."""
    with tempfile.TemporaryDirectory() as folder:
        application, file = Path(folder, "application.json"), Path(folder, "patch.yaml")
        application.write_text(json.dumps(APPLICATION))
        file.write_text(patch)
        done = subprocess.run(
            [
                *(kubectl_program(), "patch", "--local", "--filename"),
                *(str(application), "--patch-file", str(file), "--output", "json"),
            ],
            # Whatever cluster this machine knows is no business of a test.
            env={"PATH": os.environ["PATH"], "HOME": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    assert 0 == done.returncode, done.stderr
    merged: Json = json.loads(done.stdout)
    return merged


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "values",
    [{}, {"sidecar": {"enabled": True, "port": 0}}, RICH],
    ids=["loopback", "Unix socket", "with everything"],
)
def test_the_patched_application_is_valid(
    form: str, version: str, values: Json
) -> None:
    """And still itself: the patch adds to its containers, and replaces none."""
    merged = patched(patch_text(form, **values))

    kubernetes_validate.validate(merged, version, strict=True)
    pod = merged["spec"]["template"]["spec"]
    names = {each["name"] for each in pod["containers"] + pod.get("initContainers", [])}
    assert {"shop", "migrate", "llmtune-gateway"} == names
    assert {"data", "llmtune"} <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("form", FORMS)
def test_every_volume_it_mounts_comes_with_it(form: str) -> None:
    """Of a release that has all of them."""
    pod = yaml.safe_load(patch_text(form, **RICH))["spec"]["template"]["spec"]
    mounted = {each["name"] for each in container_of(form, **RICH)["volumeMounts"]}

    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert [{"name": "registry"}] == pod["imagePullSecrets"]


def test_it_reads_what_the_gateway_of_all_others_wrote() -> None:
    """Kept answers are in the same store, so they are sealed by the same keys."""
    variables = sidecar_variables(**RICH)

    assert "GATEWAY_REPLAY_SEALING_KEYS" in variables
    assert "GATEWAY_UPSTREAM_PROXY_URL" in variables
    assert [] == unknown_variables(variables)


def test_a_native_one_starts_first_and_ends_last() -> None:
    """Its start-up probe holds the application back until it answers."""
    sidecar = patched(patch_text("native"))["spec"]["template"]["spec"][
        "initContainers"
    ][0]
    assert "llmtune-gateway" == sidecar["name"]
    assert "Always" == sidecar["restartPolicy"]
    assert "/livez" == sidecar["startupProbe"]["httpGet"]["path"]


def test_both_forms_are_the_same_gateway() -> None:
    native, classic = container_of("native", **RICH), container_of("classic", **RICH)
    del native["restartPolicy"], classic["lifecycle"]
    assert native == classic


@pytest.mark.parametrize("form", FORMS)
def test_the_pod_waits_for_its_drain(form: str) -> None:
    pod = yaml.safe_load(patch_text(form))["spec"]["template"]["spec"]
    settings = sidecar_settings()
    assert 0 == settings.drain_notice_s
    needed_s = settings.drain_timeout_s + FAREWELL_S
    assert pod["terminationGracePeriodSeconds"] >= needed_s + 10


def test_the_application_is_one_workspace_without_a_key() -> None:
    settings = sidecar_settings()
    assert ("shop", "growth") == (settings.sidecar_workspace, settings.sidecar_plan)


def test_only_the_pod_reaches_its_api() -> None:
    """Probes and scrapes come over the pod's address, to a port of their own."""
    container = container_of("native")
    assert "--host=127.0.0.1" in container["args"]
    assert "0.0.0.0" == sidecar_settings().ops_host  # noqa: S104
    (port,) = container["ports"]
    assert sidecar_settings().ops_port == port["containerPort"]


def test_it_collides_with_nothing_of_istios() -> None:
    for container in (container_of("native"), rendered().container):
        ports = {port["containerPort"] for port in container["ports"]}
        assert not ports & set(ISTIO_PORTS)
    release = preset("istio-values.yaml").of("Deployment")
    pod = release["spec"]["template"]["spec"]
    assert ISTIO_UID != pod["securityContext"]["runAsUser"]
    assert ISTIO_UID != container_of("native")["securityContext"]["runAsUser"]


def test_the_documented_snippet_is_what_the_chart_renders() -> None:
    """A reader without Helm copies it."""
    text = (DOCS / "kubernetes.md").read_text(encoding="utf-8")
    snippet = text.partition("<!-- sidecar -->\n```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(patch_text("native")) == yaml.safe_load(snippet)
