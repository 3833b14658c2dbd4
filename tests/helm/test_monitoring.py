"""What Prometheus and Grafana find of a release, and where they send people."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from grafana.rules import ALERTS, RUNBOOKS
from tests.helm.rendering import NAME, RELEASE, Refused, rendered

DOCS: Final = Path(__file__).parents[2] / "docs"


def test_alerts_lead_to_runbooks_that_can_be_opened() -> None:
    """A notification is read far from a checkout: an address, or the operator's."""

    def runbooks(**values: Any) -> set[str]:
        release = rendered(prometheusRule={"enabled": True, **values})
        return {
            rule["annotations"]["runbook_url"].partition("#")[0]
            for group in release.of("PrometheusRule")["spec"]["groups"]
            for rule in group["rules"]
            if "alert" in rule
        }

    assert {RUNBOOKS} == runbooks()
    assert RUNBOOKS.startswith("https://")
    mine = "https://wiki.example/$1/gateway"
    assert {mine} == runbooks(runbooks=mine)
    with pytest.raises(Refused, match="runbooks"):
        runbooks(runbooks="docs/runbooks.md")


def test_no_roll_out_is_taken_for_plans_that_disagree() -> None:
    """A pod that drains has its old plans, and may be scraped, until its end."""
    pod = rendered().of("Deployment")["spec"]["template"]["spec"]
    (alert,) = (each for each in ALERTS if each.name == "GatewayPlansDisagree")
    minutes = int(alert.lasting.removesuffix("m"))

    assert minutes * 60 > 1.5 * pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("kind", ["ClusterIP", "LoadBalancer"])
def test_each_release_is_a_job_of_its_own(kind: str) -> None:
    """However the API is published: by namespace and job rules keep them apart."""
    release = rendered(serviceMonitor={"enabled": True}, service={"type": kind})
    monitor = release.of("ServiceMonitor")["spec"]
    scraped = [
        each
        for each in release.all
        if each["kind"] == "Service"
        and monitor["selector"]["matchLabels"].items()
        <= each["metadata"]["labels"].items()
        and {port["name"] for port in each["spec"]["ports"]}
        & {endpoint["port"] for endpoint in monitor["endpoints"]}
    ]
    (service,) = scraped
    assert RELEASE == service["metadata"]["labels"][monitor["jobLabel"]]


@pytest.mark.parametrize("form", ["native", "classic"])
def test_the_documented_monitor_finds_the_sidecars(form: str) -> None:
    """By a port that they have, whichever way they were put into a pod."""
    text = (DOCS / "kubernetes.md").read_text(encoding="utf-8")
    _, _, after = text.partition("<!-- podmonitor -->\n```yaml\n")
    monitor = yaml.safe_load(after.partition("```")[0])
    release = rendered(
        upstream={"existingSecret": "llmtune"}, sidecar={"enabled": True}
    )
    patch = yaml.safe_load(
        release.of("ConfigMap", f"{NAME}-sidecar")["data"][f"{form}.yaml"]
    )
    pod = patch["spec"]["template"]["spec"]
    (sidecar,) = pod.get("initContainers") or pod["containers"]

    assert monitor["kind"] == "PodMonitor"
    assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} == {
        port["name"] for port in sidecar["ports"]
    }
