"""What each value does, and what stops an install."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import pytest
import yaml

from gateway import __version__
from gateway.server import FAREWELL_S
from gateway.settings import Settings, load_settings, variable_of
from gateway.tracing.semconv import K8S_VARIABLES
from helm.__main__ import generated
from helm.schema import OWN, SETTINGS
from tests.helm.rendering import CHART, NAME, NAMESPACE, Json, notes, preset, rendered
from tests.helm.test_presets import pod_of
from tests.helm.test_values import FLEET_PLAN, SCALED, SCALED_BY_KEDA

OPTIONAL: Final = {
    "HorizontalPodAutoscaler",
    *("Ingress", "HTTPRoute", "NetworkPolicy"),
    *("ServiceMonitor", "PrometheusRule", "ScaledObject"),
}


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
            (SCALED, "HorizontalPodAutoscaler"),
            (SCALED_BY_KEDA, "ScaledObject"),
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
        scaled = rendered(**SCALED)
        assert "replicas" not in scaled.of("Deployment")["spec"]


class TestAgreements:
    """What is said in two places is the same."""

    def test_the_chart_installs_this_version(self) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        assert __version__ == chart["appVersion"]
        assert f"ghcr.io/llmtune/gateway:{__version__}" == rendered().container["image"]

    def test_traces_say_which_pod_they_are_of(self) -> None:
        """All that the downward API knows of what they look for."""
        told = {
            each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"]
            for each in rendered().container["env"]
            if each["name"].startswith("K8S_")
        }
        assert told == {
            K8S_VARIABLES["k8s.namespace.name"]: "metadata.namespace",
            K8S_VARIABLES["k8s.node.name"]: "spec.nodeName",
            K8S_VARIABLES["k8s.pod.name"]: "metadata.name",
            # By which a collector finds the rest, and instances are told apart.
            K8S_VARIABLES["k8s.pod.uid"]: "metadata.uid",
        }

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
            f"llmtune-{name}.json"
            for name in ("overview", "limits", "upstream", "jobs")
        } == set(boards)
        assert all(json.loads(board)["panels"] for board in boards.values())

    def test_the_store_is_told_of_every_replica_there_will_be(self) -> None:
        """Else a share is too large while the store is away; a worker is a replica."""

        def told(**values: Any) -> int:
            return load_settings(rendered(**values).variables).store_min_replicas

        assert 2 == told()
        assert 12 == told(replicaCount=3, workers=4)
        assert 2 == told(**SCALED, replicaCount=9)
        assert 7 == told(settings={"GATEWAY_STORE_MIN_REPLICAS": 7})

    def test_private_fleets_get_their_keys(self) -> None:
        """Each variable that a plan names is a key of the upstream's Secret."""
        release = rendered(
            upstream={"existingSecret": "llmtune"},
            policies={"plans": {"a.yaml": FLEET_PLAN}},
        )
        found = {
            each["name"]: each["valueFrom"]["secretKeyRef"]
            for each in release.container["env"]
            if each["name"] in {"OWN_KEY", "ACME_KEY"}
        }
        assert {
            name: {"name": "llmtune", "key": name} for name in ("OWN_KEY", "ACME_KEY")
        } == found

    def test_a_proxy_is_asked_only_by_what_can(self) -> None:
        """The lean transport takes none, and would not start."""
        secret = {"existingSecret": "llmtune"}
        lean = rendered(upstream=secret)
        stock = rendered(
            upstream=secret, settings={"GATEWAY_UPSTREAM_TRANSPORT": "stock"}
        )
        assert "GATEWAY_UPSTREAM_PROXY_URL" not in lean.variables
        (proxy,) = [
            each["valueFrom"]["secretKeyRef"]
            for each in stock.container["env"]
            if each["name"] == "GATEWAY_UPSTREAM_PROXY_URL"
        ]
        assert proxy["optional"] is True

    def test_the_image_understands_its_arguments(self) -> None:
        """By the command line's own parser."""
        release = preset("trial-values.yaml")
        for name in (NAME, f"{NAME}-simulator"):
            pod = release.of("Deployment", name)["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            done = subprocess.run(
                [sys.executable, "-m", "gateway", *container["args"], "--help"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert 0 == done.returncode, done.stderr

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


class TestNotes:
    """What to do next, which is not the same for everybody."""

    def test_keys_are_made_in_redis(self) -> None:
        assert "llmtune-gateway keys create" in notes()

    def test_without_a_redis_they_come_from_a_file(self) -> None:
        """`keys create` has nowhere to put one then."""
        told = notes(redis={"url": "memory://"}, replicaCount=1)
        assert "llmtune-gateway keys hash" in told
        assert "keys create" not in told

    def test_a_trial_says_that_it_is_one(self) -> None:
        told = notes(trial={"redis": True, "simulator": True})
        assert "FOR TRIALS ONLY" in told
        assert "FOR TRIALS ONLY" not in notes()

    def test_a_test_that_needs_a_key_says_so(self) -> None:
        """A trial that lets anybody in needs none."""
        trial = {"redis": True, "simulator": True}
        open_to_all = {"GATEWAY_DEFAULT_PLAN": "sandbox"}
        assert "testKeyExistingSecret" in notes()
        assert "testKeyExistingSecret" in notes(trial=trial)
        assert "testKeyExistingSecret" not in notes(trial=trial, settings=open_to_all)
        assert "upgrade, and" not in notes(testKeyExistingSecret="key")

    def test_they_name_the_next_commands(self) -> None:
        told = notes(upstream={"existingSecret": "llmtune"}, sidecar={"enabled": True})
        assert f"helm -n {NAMESPACE} test" in told
        assert f"http://{NAME}.{NAMESPACE}/v1" in told
        assert "kubectl patch deployment" in told


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
        assert "0" == said[f"{prefix}-body-size"]
        (rule,) = preset("istio-values.yaml").of("HTTPRoute")["spec"]["rules"]
        assert {"request": "0s", "backendRequest": "0s"} == rule["timeouts"]

    def test_a_network_policy_lets_out_what_the_gateway_calls(self) -> None:
        policy = preset("production-values.yaml").of("NetworkPolicy")["spec"]
        ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
        assert {53, 5353, 443, 6380, 4317} == ports

    def test_callers_do_not_reach_metrics_or_rate_limits(self) -> None:
        """Neither asks for a credential."""
        policy = preset("istio-values.yaml").of("NetworkPolicy")["spec"]
        callers, operators = (
            {port["port"] for port in rule["ports"]} for rule in policy["ingress"]
        )
        assert {"http", 15008} == callers
        assert {"http-ops", "grpc-ratelimit", 15008, 15020, 15090} == operators

    def test_both_routes_lead_to_the_api(self) -> None:
        """The HTTPRoute's schema is another project's, so its shape is told here."""
        release = rendered(
            ingress={"enabled": True, "host": "llm.example.com"},
            httpRoute={"enabled": True, "parentRefs": [{"name": "edge"}]},
            service={"port": 8000},
        )
        (path,) = release.of("Ingress")["spec"]["rules"][0]["http"]["paths"]
        route = release.of("HTTPRoute")["spec"]
        (api,) = release.of("Service")["spec"]["ports"]
        assert {"name": NAME, "port": {"name": api["name"]}} == path["backend"][
            "service"
        ]
        assert {
            "parentRefs": [{"name": "edge"}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "timeouts": {"request": "0s", "backendRequest": "0s"},
                    "backendRefs": [{"name": NAME, "port": api["port"]}],
                }
            ],
        } == route

    def test_a_load_balancer_publishes_the_api_alone(self) -> None:
        release = rendered(service={"type": "LoadBalancer"}, rateLimitService=True)
        public = [
            port["name"]
            for each in release.all
            if each["kind"] == "Service" and each["spec"]["type"] != "ClusterIP"
            for port in each["spec"]["ports"]
        ]
        internal = release.of("Service", f"{NAME}-internal")["spec"]["ports"]
        assert ["http"] == public
        assert ["http-ops", "grpc-ratelimit"] == [port["name"] for port in internal]

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
        assert hpa["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 600

    def test_keda_asks_the_same_of_prometheus(self) -> None:
        """Of this release's pods, and it lets them drain as slowly."""
        release = preset("redis-cluster-values.yaml")
        scaled = release.of("ScaledObject")["spec"]
        trigger = scaled["triggers"][0]["metadata"]
        service = release.of("Service", f"{NAME}-internal")["metadata"]["name"]
        hpa = preset("production-values.yaml").of("HorizontalPodAutoscaler")["spec"]

        assert (
            "sum(llmtune_gateway_streams_in_flight"
            f'{{namespace="{NAMESPACE}",service="{service}"}})'
        ) == trigger["query"]
        assert {"serverAddress", "query", "threshold", "ignoreNullValues"} == set(
            trigger
        )
        assert {"behavior": hpa["behavior"]} == scaled["advanced"][
            "horizontalPodAutoscalerConfig"
        ]

    def test_every_pod_is_pulled_and_scheduled_alike(self) -> None:
        """A private registry, and nodes that tolerate only those who say so."""
        scheduling = {"nodeSelector": {"pool": "llm"}}
        release = rendered(
            image={"pullSecrets": ["registry"]},
            trial={"redis": True, "simulator": True},
            scheduling=scheduling,
        )

        pods = [pod for each in release.all if (pod := pod_of(each)) is not None]
        # The gateway, its trial Redis and simulator, and helm test's.
        assert 4 == len(pods)
        for pod in pods:
            assert [{"name": "registry"}] == pod["imagePullSecrets"]
            assert {"pool": "llm"} == pod["nodeSelector"]


def test_a_plan_is_kept_as_it_is_written() -> None:
    """Whatever its first line begins with."""
    text = "  plan: a\n  title: 'A # b'\n"

    release = rendered(policies={"plans": {"a.yaml": text}})

    assert text == release.of("ConfigMap", f"{NAME}-plans")["data"]["a.yaml"]


def test_no_port_at_all_is_not_every_port() -> None:
    """In a NetworkPolicy a rule that names no port opens all of them."""
    release = rendered(networkPolicy={"enabled": True, "egressPorts": []})

    for rule in release.of("NetworkPolicy")["spec"]["egress"]:
        assert rule["ports"]
