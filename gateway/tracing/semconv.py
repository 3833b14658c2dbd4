"""
Every name that leaves through OpenTelemetry: attributes, events, metrics, boundaries.

HTTP names are stable. Those of GenAI are in Development and about to be renamed (the
duration and token metrics first), which is then done here and nowhere else. What is
ours begins with `llmtune.`.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "llmtune.gateway"

# HTTP semantic conventions, stable.
METHOD: Final = "http.request.method"
ROUTE: Final = "http.route"
STATUS_CODE: Final = "http.response.status_code"
RESEND_COUNT: Final = "http.request.resend_count"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
URL_FULL: Final = "url.full"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
CLIENT_ADDRESS: Final = "client.address"
PROTOCOL_VERSION: Final = "network.protocol.version"
USER_AGENT: Final = "user_agent.original"
ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"

# GenAI semantic conventions 1.41, Development.
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_CHOICES: Final = "gen_ai.request.choice.count"
REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - an LLM's token, no secret

PROVIDER_NAME: Final = "llmtune"
CHAT: Final = "chat"
TEXT_COMPLETION: Final = "text_completion"

# Ours.
REQUEST_ID: Final = "llmtune.request_id"
CLIENT_REQUEST_ID: Final = "llmtune.client_request_id"
WORKSPACE: Final = "llmtune.workspace"
KEY_ID: Final = "llmtune.key_id"
PLAN: Final = "llmtune.plan"
OUTCOME: Final = "llmtune.outcome"
ERROR_CODE: Final = "llmtune.error_code"
ERROR_ID: Final = "llmtune.error_id"
REPLAY: Final = "llmtune.replay"
UPSTREAM_ROUTE: Final = "llmtune.upstream_route"
USAGE_ESTIMATED: Final = "llmtune.usage.estimated"
DECISION: Final = "llmtune.admission.decision"
LIMIT: Final = "llmtune.admission.limit"
REASON: Final = "llmtune.admission.reason"
IS_EXACT: Final = "llmtune.admission.exact"
RESERVED: Final = "llmtune.admission.reserved_tokens"
ACTUAL: Final = "llmtune.admission.actual_tokens"
# Below 0 it was refunded, above it was topped up.
ADJUSTMENT: Final = "llmtune.admission.adjustment_tokens"

ADMISSION_SPAN: Final = "admission.admit"
FIRST_TOKEN_EVENT: Final = "first_token"  # noqa: S105 - an LLM's token, no secret
END_EVENT: Final = "end"
EXCEPTION_EVENT: Final = "exception"

# Where an error has no name of its own; the convention's word.
OTHER: Final = "_OTHER"
GONE: Final = "client_gone"
SHUTTING_DOWN: Final = "shutting_down"

# Metrics.
SERVER_DURATION: Final = "http.server.request.duration"
OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105 - as above
FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"

# The convention's end at 10 s; answers take up to the 600 s at which clients give up.
SERVER_DURATION_BOUNDS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
    20, 40, 80, 160, 320, 600,
)  # fmt: skip
# The convention's, which double, and what lies between its 82 s and 600 s.
OPERATION_BOUNDS: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96,
    81.92, 163.84, 327.68, 600,
)  # fmt: skip
TOKEN_BOUNDS: Final = (
    1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216,
    67108864,
)  # fmt: skip

# Resource attributes, and the variables of a chart's downward API they are read from.
K8S_VARIABLES: Final = {
    "k8s.namespace.name": "K8S_NAMESPACE_NAME",
    "k8s.pod.name": "K8S_POD_NAME",
    "k8s.pod.uid": "K8S_POD_UID",
    "k8s.node.name": "K8S_NODE_NAME",
    "k8s.container.name": "K8S_CONTAINER_NAME",
    "k8s.deployment.name": "K8S_DEPLOYMENT_NAME",
    "k8s.cluster.name": "K8S_CLUSTER_NAME",
}
POD_NAME: Final = "k8s.pod.name"
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE: Final = "service.instance.id"
DEFAULT_SERVICE: Final = "llmtune-gateway"

# Says which worker of a replica a process is, where it is one of several.
WORKER_SLOT: Final = "LLMTUNE_WORKER_SLOT"
