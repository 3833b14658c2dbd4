"""Every value of the table, one by one: misspelt, of a wrong type, and awkward."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from gateway.settings import load_settings
from helm.table import rows_of
from tests.helm.rendering import CHART, NAME, Json, Refused, rendered
from tests.helm.test_presets import FOREIGN, VERSIONS

_TEXT: Final = (CHART / "values.yaml").read_text(encoding="utf-8")
DEFAULTS: Final[Json] = yaml.safe_load(_TEXT)
PATHS: Final = tuple(path for path, _, _ in rows_of(_TEXT, DEFAULTS))
# Their schema says what they look like.
FORMED: Final = {
    *("fullnameOverride", "image.digest", "upstream.url", "redis.url"),
    *("service.type", "topologySpread", "prometheusRule.runbooks"),
}
EVERYTHING: Final = {
    "autoscaling.enabled": True,
    "resources.requests.cpu": "1",
    "networkPolicy.enabled": True,
    "serviceMonitor.enabled": True,
    "prometheusRule.enabled": True,
    "dashboards.enabled": True,
    "ingress.enabled": True,
    "httpRoute.enabled": True,
    "httpRoute.parentRefs": [{"name": "edge"}],
    "image.pullSecrets": ["1234"],
    "trial.simulator": True,
}
# Asks for no password, and so stands beside no Secret of one.
TRIAL_REDIS: Final = {
    "trial.redis": True,
    "redis.existingSecret": "",
    "redis.username": "",
}


ISTIO_UID: Final = 1337
FLEET_PLAN: Final = """
plan: a
upstream: {url: "https://a.example.com", api_key_env: OWN_KEY}
workspaces:
  acme:
    upstream: {url: "https://b.example.com", api_key_env: ACME_KEY}
"""
SIDECAR: Final[Json] = {
    "upstream": {"existingSecret": "llmtune"},
    "sidecar": {"enabled": True},
}
SCALED: Final[Json] = {
    "autoscaling": {"enabled": True},
    "resources": {"requests": {"cpu": "1"}},
}
SCALED_BY_KEDA: Final[Json] = {
    **SCALED,
    "autoscaling": {"enabled": True, "prometheusUrl": "http://p:9090"},
}


def nested(values: Json) -> Json:
    """Values by their dotted paths, as Helm takes them."""
    result: Json = {}
    for path, value in values.items():
        *groups, name = path.split(".")
        place = result
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return result


def as_pointer(path: str) -> str:
    """As Helm 4 names a place; Helm 3 keeps the dots."""
    return "".join(f"/{name}" for name in path.split(".") if name)


def default_of(path: str) -> Any:
    found: Any = DEFAULTS
    for name in path.split("."):
        found = found[name]
    return found


def wrong_type_of(value: Any) -> Any:
    match value:
        case str():
            return ["a list"]
        case bool() | int():
            return "a text"
        case _:
            return 7


def test_any_typo_stops_the_render() -> None:
    """At whatever depth; the message names each."""
    typos = {f"{path}x": default_of(path) for path in PATHS}

    with pytest.raises(Refused) as refused:
        rendered(**nested(typos))

    lines = str(refused.value).splitlines()
    for typo in typos:
        group, _, name = typo.rpartition(".")
        place = re.compile(f"'{as_pointer(group)}'|{group or '.root.'}:")
        assert any(place.search(line) and name in line for line in lines), typo


def test_any_wrong_type_stops_the_render() -> None:
    with pytest.raises(Refused) as refused:
        rendered(**nested({path: wrong_type_of(default_of(path)) for path in PATHS}))

    for path in PATHS:
        assert re.search(f"'{as_pointer(path)}'|{path}:", str(refused.value)), path


@pytest.mark.parametrize(
    "beside",
    [{}, TRIAL_REDIS, {"sidecar.enabled": True}],
    ids=["", "trial", "sidecar"],
)
@pytest.mark.parametrize("text", ["1234", "true", "null", "1e3"])
def test_a_text_that_looks_like_something_else_stays_a_text(
    text: str, beside: Json
) -> None:
    """A Secret may well be called 1234."""
    texts = {
        path: text
        for path in PATHS
        if isinstance(default_of(path), str) and path not in FORMED
    }
    if "sidecar.enabled" in beside:
        texts["policies.keysExistingSecret"] = ""

    release = rendered(**nested(texts | EVERYTHING | beside))

    for manifest in release.all:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_what_an_operator_says_of_nginx_wins() -> None:
    """And is not written beside the chart's own: Kubernetes refuses a name twice."""
    annotation = "nginx.ingress.kubernetes.io/proxy-read-timeout"
    values: Json = {"ingress.enabled": True, "ingress.host": "llm.example.com"}

    release = rendered(**nested(values))
    changed = rendered(**nested(values | {"ingress.annotations": {annotation: "3600"}}))

    assert "600" == release.of("Ingress")["metadata"]["annotations"][annotation]
    assert "3600" == changed.of("Ingress")["metadata"]["annotations"][annotation]


def test_the_charts_own_labels_win() -> None:
    """A selector must find its pods, and a checksum has to roll them."""
    release = rendered(
        podLabels={"app.kubernetes.io/name": "mine", "team": "a"},
        podAnnotations={"checksum/settings": "mine", "note": "b"},
        serviceMonitor={
            "enabled": True,
            "additionalLabels": {"app.kubernetes.io/name": "mine", "release": "p"},
        },
    )

    pod = release.of("Deployment")["spec"]["template"]["metadata"]
    assert "llmtune-gateway" == pod["labels"]["app.kubernetes.io/name"]
    assert "a" == pod["labels"]["team"]
    assert 64 == len(pod["annotations"]["checksum/settings"])
    assert "b" == pod["annotations"]["note"]
    monitor = release.of("ServiceMonitor")["metadata"]["labels"]
    assert ("llmtune-gateway", "p") == (
        monitor["app.kubernetes.io/name"],
        monitor["release"],
    )


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
            (
                {"openTelemetry": {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret"}},
                "OTEL_EXPORTER_OTLP_HEADERS",
            ),
            ({"maxUnavailable": "200%"}, "maxUnavailable"),
            ({"redis": {"username": "gateway"}}, "redis.existingSecret"),
            ({"redis": {"username": "a:b@c"}}, "username"),
            (
                {"trial": {"redis": True}, "redis": {"existingSecret": "r"}},
                "redis.existingSecret",
            ),
            ({"fullnameOverride": "1gw"}, "fullnameOverride"),
            ({"fullnameOverride": "a.b"}, "fullnameOverride"),
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
            (
                {
                    "redis": {"url": "memory://", "existingSecret": "pw"},
                    "replicaCount": 1,
                },
                "takes no password",
            ),
            ({**SIDECAR, "policies": {"keysExistingSecret": "k"}}, "gateway of many"),
            (
                {**SIDECAR, "settings": {"GATEWAY_DEFAULT_PLAN": "sandbox"}},
                "gateway of many",
            ),
            ({"ingress": {"enabled": True}}, "ingress.host"),
            ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
            ({"sidecar": {"enabled": True}}, "upstream.existingSecret"),
            (
                {**SIDECAR, "sidecar": {"enabled": True, "port": 8791}},
                "sidecar.opsPort",
            ),
            ({"autoscaling": {"enabled": True}}, "resources.requests.cpu"),
            (
                {**SCALED, "autoscaling": {"enabled": True, "minReplicas": 11}},
                "autoscaling.maxReplicas",
            ),
            (
                {"rateLimitService": True, "networkPolicy": {"enabled": True}},
                "networkPolicy.opsFrom",
            ),
            (
                {"redis": {"url": "redis+sentinel://s/m/0?sentinel_password=pw"}},
                "redis.existingSecret",
            ),
            ({"policies": {"plans": {"a.yaml": "plan: [a"}}}, "a.yaml is no YAML"),
            (
                {"policies": {"plans": {"a.yaml": FLEET_PLAN}}},
                "private fleet wants its key ACME_KEY",
            ),
            ({"maxUnavailable": "half"}, "maxUnavailable"),
            ({"fullnameOverride": "My_Gateway"}, "fullnameOverride"),
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


def objects_of(schema: Any, path: str = "") -> list[tuple[str, Json]]:
    """Every object of a schema, by the path of its value."""
    found = [(path, schema)] if schema.get("type") == "object" else []
    for name, each in schema.get("properties", {}).items():
        found += objects_of(each, f"{path}.{name}".lstrip("."))
    if isinstance(schema.get("items"), dict):
        found += objects_of(schema["items"], f"{path}[]")
    return found
