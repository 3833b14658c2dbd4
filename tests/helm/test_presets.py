"""Every set of values in `ci/`: rendered, and valid for old and new Kubernetes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest

from gateway.settings import load_settings, unknown_variables
from policies.plan_files import load_plan_book
from tests.helm.rendering import (
    CHART,
    NAME,
    PRESETS,
    Json,
    Refused,
    for_kubernetes,
    preset,
)
from tests.servers.helm import helm_program

# The oldest that Chart.yaml admits, and the newest there is.
VERSIONS: Final = ("1.30", "1.37")
# Of others' controllers, whose schemas are not Kubernetes'.
FOREIGN: Final = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute"}


def test_the_chart_passes_helms_own_lint() -> None:
    """Strictly: a warning is a failure."""
    for name in PRESETS:
        done = subprocess.run(
            [
                *(helm_program(), "lint", "--strict", str(CHART)),
                *("--values", str(CHART / "ci" / name)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_manifest_is_valid(name: str, version: str) -> None:
    """By the API's own schema, in which an unknown field is an error."""
    checked = 0
    for manifest in preset(name).all:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, version, strict=True)
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize("version", VERSIONS)
def test_supported_kubernetes_is_not_refused(version: str) -> None:
    assert "Deployment" in for_kubernetes(version).kinds()


def test_older_kubernetes_is_refused() -> None:
    """Before it finds out by itself, with half of a release installed."""
    with pytest.raises(Refused, match="kubeVersion"):
        for_kubernetes("1.29")


def test_a_wrong_field_would_be_noticed() -> None:
    """That the check above can fail."""
    manifest = preset(PRESETS[0]).of("Deployment")
    wrong = {**manifest, "spec": {**manifest["spec"], "replica": 2}}

    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_presets_together_render_every_template() -> None:
    """What no preset renders, nothing here has checked."""
    templates = (CHART / "templates").glob("**/*.yaml")
    sources = {path.relative_to(CHART).as_posix() for path in templates}
    rendered: set[str] = set()
    for name in PRESETS:
        done = subprocess.run(
            [
                *(helm_program(), "template", "rel", str(CHART)),
                *("--values", str(CHART / "ci" / name)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        rendered |= set(re.findall(r"# Source: llmtune-gateway/(\S+)", done.stdout))

    assert sources == rendered


@pytest.mark.parametrize("name", PRESETS)
def test_the_gateway_starts_with_what_it_is_told(name: str) -> None:
    """Its own loader takes the variables, and knows all of them."""
    variables = preset(name).variables
    if "GATEWAY_REPLAY_SEALING_KEYS" in variables:
        variables["GATEWAY_REPLAY_SEALING_KEYS"] = f"k1:{'A' * 43}="

    load_settings(variables)

    assert [] == unknown_variables(variables)


@pytest.mark.parametrize("name", PRESETS)
def test_the_gateway_takes_the_plans_it_is_given(name: str, tmp_path: Path) -> None:
    """With the keys that their private fleets want."""
    plans = [
        each["data"]
        for each in preset(name).all
        if each["metadata"]["name"] == f"{NAME}-plans"
    ]
    for file, text in (pair for data in plans for pair in data.items()):
        (tmp_path / file).write_text(text)

    book = load_plan_book(tmp_path if plans else None)

    fleets = [each.upstream for each in (*book.plans, *book.overrides.values())]
    wanted = {fleet.api_key_env for fleet in fleets if fleet}
    assert wanted <= set(preset(name).variables)


@pytest.mark.parametrize("name", PRESETS)
def test_no_credential_is_rendered(name: str) -> None:
    """No Secret is made, and a variable that is one comes from one."""
    rendered = preset(name)
    secret = re.compile("KEY|PASSWORD|SECRET|TOKEN", re.IGNORECASE)

    assert "Secret" not in rendered.kinds()
    plain = [
        variable["name"]
        for manifest in rendered.all
        for container in containers_of(manifest)
        for variable in container.get("env", [])
        if secret.search(variable["name"]) and "valueFrom" not in variable
    ]
    # The key that anybody may know, where any key is let in.
    assert plain in ([], ["API_KEY"])
    told = [
        name
        for manifest in rendered.all
        if manifest["kind"] == "ConfigMap"
        for name in manifest["data"]
        if name.startswith(("GATEWAY_", "OTEL_"))
    ]
    assert told
    assert [] == [name for name in told if re.search("API_KEY|SECRET|_HEADERS", name)]


@pytest.mark.parametrize("name", PRESETS)
def test_every_pod_is_confined(name: str) -> None:
    """Not root, nothing to write to, no capability, no token."""
    for manifest in preset(name).all:
        pod = pod_of(manifest)
        if pod is None:
            continue
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert {"type": "RuntimeDefault"} == pod["securityContext"]["seccompProfile"]
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert {"drop": ["ALL"]} == context["capabilities"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_selector_never_changes(name: str) -> None:
    """Name and instance alone: Deployments refuse any other on an upgrade."""
    for manifest in preset(name).all:
        if manifest["kind"] == "Deployment":
            selector = manifest["spec"]["selector"]["matchLabels"]
            assert {"app.kubernetes.io/name", "app.kubernetes.io/instance"} == set(
                selector
            )
            labels = manifest["spec"]["template"]["metadata"]["labels"]
            assert selector.items() <= labels.items()


@pytest.mark.parametrize("name", PRESETS)
def test_services_reach_the_pods_they_are_for(name: str) -> None:
    """Each selects one Deployment, and its ports are that one's."""
    manifests = preset(name).all
    for service in (each for each in manifests if each["kind"] == "Service"):
        selected = [
            each["spec"]["template"]
            for each in manifests
            if each["kind"] == "Deployment"
            and service["spec"]["selector"].items()
            <= each["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert 1 == len(selected)
        (container,) = selected[0]["spec"]["containers"]
        ports = {port.get("name") for port in container["ports"]}
        ports |= {port["containerPort"] for port in container["ports"]}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports
            # Meshes guess what is not said, and hold a connection while they do.
            assert port["appProtocol"]


def pod_of(manifest: Json) -> Any:
    match manifest["kind"]:
        case "Deployment":
            return manifest["spec"]["template"]["spec"]
        case "Pod":
            return manifest["spec"]
        case _:
            return None


def containers_of(manifest: Json) -> list[Json]:
    pod = pod_of(manifest)
    return [] if pod is None else pod["containers"]
