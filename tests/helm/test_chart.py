"""What each value does, and what stops an install."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from gateway import __version__
from gateway.server import FAREWELL_S
from gateway.settings import Settings, load_settings, variable_of
from helm.__main__ import generated
from helm.schema import OWN, SETTINGS
from tests.helm.rendering import CHART, NAME, Json, Refused, preset, rendered
from tests.helm.test_presets import VERSIONS

DOCS: Final = Path(__file__).parents[2] / "docs"
OPTIONAL: Final = {
    "HorizontalPodAutoscaler",
    *("Ingress", "HTTPRoute", "NetworkPolicy"),
    *("ServiceMonitor", "PrometheusRule", "ScaledObject"),
}
ISTIO_PORTS: Final = range(15000, 15100)
ISTIO_UID: Final = 1337


class TestDrain:
    """Kubernetes waits for as long as the gateway drains."""

    @pytest.mark.parametrize("drain", [{}, {"noticeSeconds": 30, "timeoutSeconds": 90}])
    def test_the_grace_period_holds_the_whole_drain(self, drain: Json) -> None:
        """All of it is said by the same values, so they cannot disagree."""
        release = rendered(drain=drain)
        pod = release.of("Deployment")["spec"]["template"]["spec"]
        settings = load_settings(release.variables)

        slept_s = release.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        drained_s = settings.drain_notice_s + settings.drain_timeout_s + FAREWELL_S
        spare_s = pod["terminationGracePeriodSeconds"] - slept_s - drained_s
        assert 10 == spare_s

    def test_a_stream_may_take_as_long_as_an_sdk_waits(self) -> None:
        """OpenAI's give up after 600 s."""
        assert load_settings(rendered().variables).drain_timeout_s >= 600

    def test_a_new_pod_is_there_before_an_old_one_goes(self) -> None:
        """And no more than one at a time is away for maintenance."""
        release = rendered()
        update = release.of("Deployment")["spec"]["strategy"]["rollingUpdate"]
        budget = release.of("PodDisruptionBudget")["spec"]
        assert {"maxUnavailable": 0, "maxSurge": 1} == update
        assert 1 == budget["maxUnavailable"]
        assert "AlwaysAllow" == budget["unhealthyPodEvictionPolicy"]

    def test_liveness_asks_nothing_of_redis(self) -> None:
        """A Redis that is away must not restart every pod."""
        container = rendered().container
        paths = {
            probe: container[probe]["httpGet"]["path"]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        assert {
            "startupProbe": "/livez",
            "livenessProbe": "/livez",
            "readinessProbe": "/readyz",
        } == paths


class TestOffByDefault:
    """What needs something that a cluster may not have."""

    def test_the_default_renders_what_every_cluster_knows(self) -> None:
        assert {
            *("Deployment", "Service", "ServiceAccount", "ConfigMap"),
            *("PodDisruptionBudget", "Pod"),
        } == rendered().kinds()

    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            ({"autoscaling": {"enabled": True}}, "HorizontalPodAutoscaler"),
            (
                {"autoscaling": {"enabled": True, "prometheusUrl": "http://p:9090"}},
                "ScaledObject",
            ),
            ({"ingress": {"enabled": True, "host": "llm.example.com"}}, "Ingress"),
            (
                {"httpRoute": {"enabled": True, "parentRefs": [{"name": "edge"}]}},
                "HTTPRoute",
            ),
            ({"networkPolicy": {"enabled": True}}, "NetworkPolicy"),
            ({"serviceMonitor": {"enabled": True}}, "ServiceMonitor"),
            ({"prometheusRule": {"enabled": True}}, "PrometheusRule"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_each_is_rendered_alone_when_asked_for(
        self, values: Json, kind: str
    ) -> None:
        assert {kind} == rendered(**values).kinds() & OPTIONAL

    def test_what_scales_leaves_the_number_of_replicas_alone(self) -> None:
        """Else each upgrade would undo it."""
        assert 2 == rendered().of("Deployment")["spec"]["replicas"]
        scaled = rendered(autoscaling={"enabled": True})
        assert "replicas" not in scaled.of("Deployment")["spec"]


class TestMistakes:
    """A wrong value stops the install, and is named."""

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"replicas": 3}, "replicas"),
            ({"redis": {"uri": "redis://r"}}, "uri"),
            ({"drain": {"timeoutSecond": 3}}, "timeoutSecond"),
            ({"settings": {"GATEWAY_LOGLEVEL": "debug"}}, "GATEWAY_LOGLEVEL"),
            ({"settings": {"GATEWAY_STORE_URL": "redis://r"}}, "GATEWAY_STORE_URL"),
            ({"openTelemetry": {"OTLP_ENDPOINT": "x"}}, "OTLP_ENDPOINT"),
            ({"drain": {"timeoutSeconds": "10s"}}, "timeoutSeconds"),
            ({"replicaCount": -1}, "replicaCount"),
            ({"drain": {"timeoutSeconds": 100_000}}, "timeoutSeconds"),
            ({"image": {"digest": "latest"}}, "digest"),
            ({"runAsUser": ISTIO_UID}, "runAsUser"),
            ({"sidecar": {"port": 15001}}, "port"),
            ({"service": {"type": "Clusterip"}}, "type"),
            ({"topologySpread": "Sometimes"}, "topologySpread"),
            ({"policies": {"plans": {"a.txt": "plan: a"}}}, "a.txt"),
            ({"resources": {"limit": {}}}, "limit"),
            ({"redis": {"url": "http://r"}}, "url"),
            ({"upstream": {"url": "https://key@llm"}}, "url"),
            ({"redis": {"url": "redis://:pw@r:6379"}}, "redis.existingSecret"),
            ({"redis": {"url": "memory://"}}, "counts for one process alone"),
            ({"ingress": {"enabled": True}}, "ingress.host"),
            ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
            ({"sidecar": {"enabled": True}}, "upstream.existingSecret"),
        ],
        ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
    )
    def test_it_stops_the_render(self, values: Json, named: str) -> None:
        with pytest.raises(Refused, match=named):
            rendered(**values)

    def test_memory_is_for_one_replica(self) -> None:
        """Which is a fine trial."""
        release = rendered(redis={"url": "memory://"}, replicaCount=1)
        assert "memory://" == release.variables["GATEWAY_STORE_URL"]

    def test_every_object_of_ours_refuses_what_it_does_not_know(self) -> None:
        """At every level that is not Kubernetes' own."""
        schema = json.loads((CHART / "values.schema.json").read_text())
        is_open = [
            path
            for path, each in objects_of(schema)
            if "additionalProperties" not in each
        ]
        # As in a pod or a NetworkPolicy: Kubernetes refuses what is wrong there.
        assert {
            *("global", "resources.limits", "resources.requests"),
            *("scheduling.affinity", "scheduling.tolerations[]"),
            *("networkPolicy.ingressFrom[]", "networkPolicy.opsFrom[]"),
            "httpRoute.parentRefs[]",
        } == set(is_open)


class TestAwkwardValues:
    """Legal, and easily written wrong in YAML."""

    def test_large_numbers_stay_whole(self) -> None:
        """YAML's are floats, and a million's own form is 1e+06."""
        release = rendered(
            settings={
                "GATEWAY_HTTP_MAX_BODY_BYTES": 33_554_432,
                "GATEWAY_LOG_SUCCESS_RATIO": 0.25,
                "GATEWAY_LOG_LEVEL": "debug",
            },
            drain={"timeoutSeconds": 86_400, "noticeSeconds": 3_600},
            runAsUser=1_000_660_000,
        )
        settings = load_settings(release.variables)
        assert (33_554_432, 0.25) == (
            settings.http_max_body_bytes,
            settings.log_success_ratio,
        )
        pod = release.of("Deployment")["spec"]["template"]["spec"]
        assert 1_000_660_000 == pod["securityContext"]["runAsUser"]
        assert 90_020 == pod["terminationGracePeriodSeconds"]

    def test_a_wildcard_is_a_host(self) -> None:
        """Which YAML takes for an alias."""
        host = "*.example.com"
        release = rendered(
            ingress={"enabled": True, "host": host, "tlsSecretName": "wild"}
        )
        ingress = release.of("Ingress")["spec"]
        assert host == ingress["rules"][0]["host"] == ingress["tls"][0]["hosts"][0]

    def test_a_plan_is_mounted_as_it_was_written(self) -> None:
        plan = 'plan: "a"\n# {{ not a template }}\nconcurrency: 2\n'
        release = rendered(policies={"plans": {"a.yaml": plan}})
        assert plan == release.of("ConfigMap", f"{NAME}-plans")["data"]["a.yaml"]


class TestAgreements:
    """What is said in two places is the same."""

    def test_the_chart_installs_this_version(self) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        assert __version__ == chart["appVersion"]
        assert f"ghcr.io/llmtune/gateway:{__version__}" == rendered().container["image"]

    def test_every_setting_has_one_place(self) -> None:
        """In `settings`, or as a value or a Secret of its own."""
        fields = {field for field in Settings.__struct_fields__}
        assert {variable_of(name) for name in fields - OWN} == set(SETTINGS)

    def test_generated_files_are_fresh(self) -> None:
        """Schema, table, dashboards and rules: `python -m helm` writes them."""
        for name, content in generated().items():
            assert content == (CHART / name).read_text(encoding="utf-8"), name

    def test_values_fit_on_a_few_screens(self) -> None:
        assert len((CHART / "values.yaml").read_text().splitlines()) < 150
        helpers = CHART / "templates" / "_helpers.tpl"
        assert len(helpers.read_text().splitlines()) < 80

    def test_pods_roll_when_plans_or_settings_change(self) -> None:
        def checksums(**values: Any) -> Json:
            template = rendered(**values).of("Deployment")["spec"]["template"]
            return dict(template["metadata"]["annotations"])

        before = checksums()
        plan = checksums(policies={"plans": {"a.yaml": "plan: a"}})
        level = checksums(settings={"GATEWAY_LOG_LEVEL": "debug"})
        assert before["checksum/policies"] != plan["checksum/policies"]
        assert before["checksum/settings"] != level["checksum/settings"]

    def test_the_rules_and_dashboards_are_the_projects(self) -> None:
        release = preset("production-values.yaml")
        groups = release.of("PrometheusRule")["spec"]["groups"]
        written = [
            group
            for name in ("alerts", "recording")
            for group in yaml.safe_load(
                (CHART / "files" / "rules" / f"{name}.yaml").read_text()
            )["groups"]
        ]
        boards = release.of("ConfigMap", f"{NAME}-dashboards")["data"]
        assert written == groups
        assert {
            f"llmtune-{name}.json" for name in ("overview", "limits", "upstream")
        } == set(boards)
        assert all(json.loads(board)["panels"] for board in boards.values())

    def test_the_scrapes_job_is_the_one_that_rules_ask_for(self) -> None:
        monitor = preset("production-values.yaml").of("ServiceMonitor")
        label = monitor["spec"]["jobLabel"]
        service = preset("production-values.yaml").of("Service")
        assert "llmtune-gateway" == service["metadata"]["labels"][label]
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {each["port"] for each in monitor["spec"]["endpoints"]} <= ports

    def test_the_password_is_put_in_by_kubernetes(self) -> None:
        """After a variable that comes from the Secret, and before what names it."""
        release = preset("production-values.yaml")
        names = [each["name"] for each in release.container["env"]]
        url = next(
            each["value"]
            for each in release.container["env"]
            if each["name"] == "GATEWAY_STORE_URL"
        )
        assert "rediss://gateway:$(REDIS_PASSWORD)@redis.data.svc:6380/0" == url
        assert names.index("REDIS_PASSWORD") < names.index("GATEWAY_STORE_URL")


class TestSidecar:
    """Next to an application, in both forms."""

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("form", ["native", "classic"])
    @pytest.mark.parametrize("port", [8790, 0], ids=["loopback", "Unix socket"])
    def test_the_patched_application_is_valid(
        self, form: str, version: str, port: int
    ) -> None:
        """As `kubectl patch` merges it."""
        patched = merged(APPLICATION, patch_of(form, port=port))

        kubernetes_validate.validate(patched, version, strict=True)

    def test_a_native_one_starts_first_and_ends_last(self) -> None:
        (sidecar,) = patch_of("native")["spec"]["template"]["spec"]["initContainers"]
        assert "Always" == sidecar["restartPolicy"]
        assert "/livez" == sidecar["startupProbe"]["httpGet"]["path"]

    def test_both_forms_are_the_same_gateway(self) -> None:
        native = patch_of("native")["spec"]["template"]["spec"]["initContainers"][0]
        classic = patch_of("classic")["spec"]["template"]["spec"]["containers"][0]
        del native["restartPolicy"], classic["lifecycle"]
        assert native == classic

    @pytest.mark.parametrize("form", ["native", "classic"])
    def test_the_pod_waits_for_its_drain(self, form: str) -> None:
        pod = patch_of(form)["spec"]["template"]["spec"]
        settings = sidecar_settings()
        assert 0 == settings.drain_notice_s
        needed_s = settings.drain_timeout_s + FAREWELL_S
        assert pod["terminationGracePeriodSeconds"] >= needed_s + 10

    def test_the_application_is_one_workspace_without_a_key(self) -> None:
        settings = sidecar_settings()
        assert ("shop", "growth") == (settings.sidecar_workspace, settings.sidecar_plan)

    def test_only_the_pod_reaches_its_api(self) -> None:
        """Probes and scrapes come over the pod's address, to a port of their own."""
        container = sidecar_container("native")
        assert "--host=127.0.0.1" in container["args"]
        assert "0.0.0.0" == sidecar_settings().ops_host  # noqa: S104
        (port,) = container["ports"]
        assert sidecar_settings().ops_port == port["containerPort"]

    def test_it_collides_with_nothing_of_istios(self) -> None:
        for container in (sidecar_container("native"), rendered().container):
            ports = {port["containerPort"] for port in container["ports"]}
            assert not ports & set(ISTIO_PORTS)
        release = preset("istio-values.yaml").of("Deployment")
        pod = release["spec"]["template"]["spec"]
        assert ISTIO_UID != pod["securityContext"]["runAsUser"]
        assert ISTIO_UID != sidecar_container("native")["securityContext"]["runAsUser"]

    def test_the_documented_snippet_is_what_the_chart_renders(self) -> None:
        """A reader without Helm copies it."""
        text = (DOCS / "kubernetes.md").read_text(encoding="utf-8")
        snippet = text.partition("<!-- sidecar -->\n```yaml\n")[2].partition("```")[0]
        assert patch_of("native") == yaml.safe_load(snippet)


class TestPlatforms:
    """What one platform wants."""

    def test_openshift_chooses_the_user(self) -> None:
        pod = preset("openshift-values.yaml").of("Deployment")["spec"]["template"][
            "spec"
        ]
        assert {"runAsNonRoot", "seccompProfile"} == set(pod["securityContext"])

    def test_no_proxy_holds_an_answer_back(self) -> None:
        """Nor ends a stream that is silent, nor asks twice."""
        ingress = preset("production-values.yaml").of("Ingress")
        prefix = "nginx.ingress.kubernetes.io/proxy"
        said = ingress["metadata"]["annotations"]
        assert ("off", "off") == (
            said[f"{prefix}-buffering"],
            said[f"{prefix}-next-upstream"],
        )
        assert int(said[f"{prefix}-read-timeout"]) >= 600
        (rule,) = preset("istio-values.yaml").of("HTTPRoute")["spec"]["rules"]
        assert {"request": "0s", "backendRequest": "0s"} == rule["timeouts"]

    def test_a_network_policy_lets_out_what_the_gateway_calls(self) -> None:
        policy = preset("production-values.yaml").of("NetworkPolicy")["spec"]
        ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
        assert {53, 443, 6380, 4317} == ports

    def test_it_lets_helms_own_test_in(self) -> None:
        release = preset("production-values.yaml")
        peers = release.of("NetworkPolicy")["spec"]["ingress"][0]["from"]
        labels = release.of("Pod", f"{NAME}-test-completion")["metadata"]["labels"]
        assert any(
            peer["podSelector"]["matchLabels"].items() <= labels.items()
            for peer in peers
            if "podSelector" in peer
        )

    def test_scaling_asks_for_open_streams(self) -> None:
        hpa = preset("production-values.yaml").of("HorizontalPodAutoscaler")["spec"]
        (pods, cpu) = hpa["metrics"]
        assert "llmtune_gateway_streams_in_flight" == pods["pods"]["metric"]["name"]
        assert "gateway" == cpu["containerResource"]["container"]
        scaled = preset("redis-cluster-values.yaml").of("ScaledObject")["spec"]
        trigger = scaled["triggers"][0]["metadata"]
        assert "llmtune_gateway_streams_in_flight" in trigger["query"]
        assert {"serverAddress", "query", "threshold", "ignoreNullValues"} == set(
            trigger
        )


APPLICATION: Final[Json] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "shop"},
    "spec": {
        "selector": {"matchLabels": {"app": "shop"}},
        "template": {
            "metadata": {"labels": {"app": "shop", "llmtune.io/workspace": "shop"}},
            "spec": {"containers": [{"name": "shop", "image": "shop:1"}]},
        },
    },
}


def patch_of(form: str, port: int = 8790) -> Json:
    """The patch of a release as `ci/sidecar-injection-values.yaml` describes it."""
    values = yaml.safe_load((CHART / "ci/sidecar-injection-values.yaml").read_text())
    values["sidecar"]["port"] = port
    config = rendered(**values).of("ConfigMap", f"{NAME}-sidecar")
    found: Json = yaml.safe_load(config["data"][f"{form}.yaml"])
    return found


def sidecar_container(form: str) -> Json:
    pod = patch_of(form)["spec"]["template"]["spec"]
    found: Json = pod["initContainers" if form == "native" else "containers"][0]
    return found


def sidecar_settings() -> Settings:
    """As the gateway reads them in a pod of the workspace `shop`."""
    told = {
        each["name"]: each.get("value", "shop")
        for each in sidecar_container("native")["env"]
    }
    return load_settings(told)


def merged(base: Json, patch: Json) -> Json:
    """A strategic merge, as far as these patches need one: lists grow."""
    result = dict(base)
    for name, value in patch.items():
        if isinstance(value, dict):
            result[name] = merged(base.get(name, {}), value)
        elif isinstance(value, list):
            result[name] = [*value, *base.get(name, [])]
        else:
            result[name] = value
    return result


def objects_of(schema: Any, path: str = "") -> list[tuple[str, Json]]:
    """Every object of a schema, by the path of its value."""
    found = [(path, schema)] if schema.get("type") == "object" else []
    for name, each in schema.get("properties", {}).items():
        found += objects_of(each, f"{path}.{name}".lstrip("."))
    if isinstance(schema.get("items"), dict):
        found += objects_of(schema["items"], f"{path}[]")
    return found
