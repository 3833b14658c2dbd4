"""The chart's schema of values: from the defaults' types, and what those do not say."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.settings import SECRETS, Settings, variable_of

Json = dict[str, Any]

# Said by values of the chart, or by the chart itself; or to be put in a Secret.
OWN: Final = SECRETS | {
    *("upstream_url", "plans_dir", "keys_file", "ops_port", "ops_host"),
    *("drain_notice_s", "drain_timeout_s", "sidecar_workspace", "sidecar_plan"),
    *("rate_limit_port", "storage_url"),
}
SETTINGS: Final = sorted(
    variable_of(field.name)
    for field in msgspec.structs.fields(Settings)
    if field.name not in OWN
)

_TEXTS: Final[Json] = {"type": "object", "additionalProperties": {"type": "string"}}
_SCALAR: Final[Json] = {"type": ["string", "number", "boolean"]}
_PEERS: Final[Json] = {"type": "array", "items": {"type": "object"}}
_PERCENT: Final[Json] = {"type": "integer", "minimum": 1, "maximum": 100}
_ONE_OR_MORE: Final[Json] = {"type": "integer", "minimum": 1}
_PORT: Final[Json] = {"type": "integer", "minimum": 1, "maximum": 65535}
# Istio's own lie between; see docs/kubernetes.md.
_FREE_PORT: Final[Json] = {**_PORT, "not": {"minimum": 15000, "maximum": 15099}}

# By path: what a default does not show. Free maps are Kubernetes' own.
SPECIAL: Final[Json] = {
    "replicaCount": {"type": "integer", "minimum": 0},
    "workers": {"type": "integer", "minimum": 1, "maximum": 64},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullSecrets": {"type": "array", "items": {"type": "string"}},
    "upstream.url": {"type": "string", "pattern": "^https?://[^@?#]+$"},
    "fullnameOverride": {
        "type": "string",
        "pattern": "^([a-z]([-a-z0-9]*[a-z0-9])?)?$",
    },
    "redis.url": {
        "type": "string",
        "pattern": "^(memory://|(redis|rediss)(\\+sentinel|\\+cluster)?://).*$",
    },
    # It becomes part of a URL.
    "redis.username": {"type": "string", "pattern": "^[A-Za-z0-9._~-]*$"},
    "policies.plans": {
        "type": "object",
        "propertyNames": {"pattern": "^[a-z0-9][a-z0-9._-]*\\.ya?ml$"},
        "additionalProperties": {"type": "string"},
    },
    # One of the three, which the templates see to, with what belongs to it.
    "storage": {
        "type": "object",
        "properties": {
            "url": {"type": "string", "pattern": "^s3://[^@]+$"},
            "existingClaim": {"type": "string", "minLength": 1},
            "accessMode": {
                "enum": ["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]
            },
            "emptyDirSize": {"type": "string", "pattern": "^[1-9][0-9]*[KMGT]i$"},
        },
        "additionalProperties": False,
        "dependencies": {
            "existingClaim": ["accessMode"],
            "accessMode": ["existingClaim"],
        },
    },
    "settings": {
        "type": "object",
        "properties": dict.fromkeys(SETTINGS, _SCALAR),
        "additionalProperties": False,
    },
    "openTelemetry": {
        "type": "object",
        # A collector's token goes into headers, and so into a Secret.
        "propertyNames": {
            "pattern": "^OTEL_[A-Z0-9_]+$",
            "not": {"pattern": "_HEADERS$"},
        },
        "additionalProperties": _SCALAR,
    },
    # As far as the gateway's own settings go.
    "drain.endpointRemovalSeconds": {"type": "integer", "minimum": 1, "maximum": 3600},
    "drain.noticeSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
    "drain.timeoutSeconds": {"type": "integer", "minimum": 1, "maximum": 86400},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.port": _PORT,
    "service.annotations": _TEXTS,
    "podAnnotations": _TEXTS,
    "podLabels": _TEXTS,
    # 1337 is the user of Istio's proxy, whose traffic is not redirected.
    "runAsUser": {"type": ["integer", "null"], "minimum": 1, "not": {"const": 1337}},
    "resources": {
        "type": "object",
        "properties": {name: {"type": "object"} for name in ("limits", "requests")},
        "additionalProperties": False,
    },
    "scheduling": {
        "type": "object",
        "properties": {
            "nodeSelector": _TEXTS,
            "tolerations": _PEERS,
            "affinity": {"type": "object"},
            "priorityClassName": {"type": "string"},
        },
        "additionalProperties": False,
    },
    "topologySpread": {"enum": ["ScheduleAnyway", "DoNotSchedule"]},
    "maxUnavailable": {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^(100|[1-9]?[0-9])%$"},
        ]
    },
    "autoscaling.minReplicas": _ONE_OR_MORE,
    "autoscaling.maxReplicas": _ONE_OR_MORE,
    "autoscaling.streamsPerPod": _ONE_OR_MORE,
    "autoscaling.cpuPercent": _PERCENT,
    "networkPolicy.ingressFrom": _PEERS,
    "networkPolicy.opsFrom": _PEERS,
    "networkPolicy.egressPorts": {"type": "array", "items": _PORT},
    "serviceMonitor.additionalLabels": _TEXTS,
    "prometheusRule.additionalLabels": _TEXTS,
    # Each alert adds the section of its own.
    "prometheusRule.runbooks": {"type": "string", "pattern": "^https?://[^\\s#]+$"},
    "dashboards.labels": _TEXTS,
    "dashboards.annotations": _TEXTS,
    "ingress.annotations": _TEXTS,
    "httpRoute.parentRefs": _PEERS,
    "httpRoute.hostnames": {"type": "array", "items": {"type": "string"}},
    "sidecar.workspace": {"type": "string", "pattern": "^[A-Za-z0-9._-]{0,64}$"},
    "sidecar.plan": {"type": "string", "minLength": 1},
    "sidecar.port": {"anyOf": [{"const": 0}, _FREE_PORT]},
    "sidecar.opsPort": _FREE_PORT,
}


def schema_of(values: Json) -> Json:
    """A schema that refuses what the defaults do not have."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of llmtune-gateway",
        **_object(values, ""),
    }


def _object(values: Json, path: str) -> Json:
    # `global` is Helm's own, handed to every chart of a release.
    of_helm: Json = {} if path else {"global": {"type": "object"}}
    return {
        "type": "object",
        "properties": of_helm
        | {name: _value(value, f"{path}{name}") for name, value in values.items()},
        "additionalProperties": False,
    }


def _value(value: Any, path: str) -> Json:
    special = SPECIAL.get(path)
    if special is not None:
        found: Json = special
        return found
    match value:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": 0}
        case str():
            return {"type": "string"}
        case dict() if value:
            return _object(value, f"{path}.")
        case _:
            raise ValueError(f"{path}: its default does not show what it may be")
