"""
Every gateway of a run: how it is started in front of an upstream, and what it wants.

Each is configured as its own documentation says for one process and one core, with its
limits opened up, and writes the access line it writes by default, to nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.nginx import plain_proxy
from benchmarks.peers import (
    OURS,
    OURS_TRACED,
    ROOT,
    PeerMissing,
    node_home,
    python_home,
)
from benchmarks.policy import Policy
from benchmarks.processes import GATEWAY_CORE, Process, free_port
from benchmarks.requests import Target

# LiteLLM needs a while to import itself, more so on a busy machine.
START_WITHIN_S: Final = 90.0
WORKSPACES: Final = 1000
# Above the most streams of a run; ours allows itself 1,000 by default, Envoy 1,024.
_MAX_CONNECTIONS: Final = 4096
_LITELLM_KEY: Final = "sk-benchmark-0123456789abcdef0123456789abcdef"
_FERROGW_KEY: Final = "fgw_0123456789abcdef0123456789abcdef"


class Site(NamedTuple):
    """What a gateway is started in front of, and where it may write."""

    folder: Path
    upstream_port: int
    redis_url: str
    # Where spans may be sent.
    otlp_port: int
    # No access line from those that write one by default.
    is_quiet: bool


class Started(NamedTuple):
    """A gateway that was started; "direct" has no process."""

    process: Process | None
    target: Target
    # For a workspace whose rate is spent; only ours.
    spent: Target | None = None


class Gateway(NamedTuple):
    """One row of the tables."""

    name: str
    title: str
    start: Callable[[Site], Started]


def _bearer(key: str) -> tuple[str, ...]:
    return (f"Authorization: Bearer {key}",)


def _ours(
    site: Site,
    store_url: str,
    workspaces: int,
    *,
    home: str = OURS,
    module: str = "gateway",
    environment: dict[str, str] | None = None,
) -> Started:
    port, policy = free_port(), Policy(site.folder, workspaces=workspaces)
    process = Process(
        "gateway",
        [
            _binary(python_home(home) / "bin" / "python"),
            *("-m", module, "serve", "--port", str(port)),
        ],
        core=GATEWAY_CORE,
        folder=site.folder,
        environment={
            "PYTHONPATH": str(ROOT),
            "GATEWAY_UPSTREAM_URL": f"http://127.0.0.1:{site.upstream_port}/v1",
            "GATEWAY_UPSTREAM_API_KEY": "benchmark",
            "GATEWAY_UPSTREAM_MAX_CONNECTIONS": str(_MAX_CONNECTIONS),
            "GATEWAY_STORE_URL": store_url,
            "GATEWAY_PLANS_DIR": str(policy.plans_dir),
            "GATEWAY_KEYS_FILE": str(policy.keys_file),
            **({"GATEWAY_LOG_LEVEL": "warning"} if site.is_quiet else {}),
            **(environment or {}),
        },
    )
    return Started(
        process,
        Target(port, tuple(_bearer(key) for key in policy.keys)),
        Target(port, (_bearer(policy.spent_key),)),
    )


def _ours_memory(site: Site) -> Started:
    return _ours(site, "memory://", 1)


def _ours_redis(site: Site) -> Started:
    return _ours(site, site.redis_url, 1)


def _ours_workspaces(site: Site) -> Started:
    return _ours(site, site.redis_url, WORKSPACES)


def _ours_no_metrics(site: Site) -> Started:
    return _ours(site, site.redis_url, 1, module="benchmarks.without_metrics")


def _ours_traced(site: Site, share: str) -> Started:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{site.otlp_port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": share,
    }
    return _ours(site, site.redis_url, 1, home=OURS_TRACED, environment=environment)


_FERROGW_CONFIG: Final = """\
strategy: {mode: fallback}
targets: [{virtual_key: openai}]
"""


def _ferrogw(site: Site) -> Started:
    port, config = free_port(), site.folder / "ferrogw.yaml"
    config.write_text(_FERROGW_CONFIG)
    process = Process(
        "ferrogw",
        [_binary(python_home("ferrogw") / "bin" / "ferrogw"), "serve"],
        core=GATEWAY_CORE,
        folder=site.folder,
        environment={
            "GATEWAY_CONFIG": str(config),
            "MASTER_KEY": _FERROGW_KEY,
            "OPENAI_API_KEY": "benchmark",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{site.upstream_port}",
            "RATE_LIMIT_RPS": "1000000",
            "RATE_LIMIT_BURST": "1000000",
            "PORT": str(port),
            # It would ask the Internet for its list of prices, and has one of its own.
            "FERRO_MODEL_CATALOG_URL": f"http://127.0.0.1:{site.upstream_port}/none",
            **({"LOG_LEVEL": "warn"} if site.is_quiet else {}),
        },
    )
    return Started(process, Target(port, (_bearer(_FERROGW_KEY),)))


def _portkey(site: Site) -> Started:
    port = free_port()
    script = node_home() / "node_modules" / ".bin" / "gateway"
    process = Process(
        "portkey",
        [_binary(script), f"--port={port}", "--headless"],
        core=GATEWAY_CORE,
        folder=site.folder,
    )
    headers = (
        *_bearer("benchmark"),
        "x-portkey-provider: openai",
        f"x-portkey-custom-host: http://127.0.0.1:{site.upstream_port}/v1",
    )
    return Started(process, Target(port, (headers,)))


_LITELLM_CONFIG: Final = """\
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: benchmark
general_settings: {{master_key: {key}}}
"""


def _litellm(site: Site) -> Started:
    port, config = free_port(), site.folder / "litellm.yaml"
    config.write_text(
        _LITELLM_CONFIG.format(upstream=site.upstream_port, key=_LITELLM_KEY)
    )
    process = Process(
        "litellm",
        [
            _binary(python_home("litellm") / "bin" / "litellm"),
            *("--config", str(config), "--num_workers", "1"),
            *("--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"),
        ],
        core=GATEWAY_CORE,
        folder=site.folder,
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    return Started(process, Target(port, (_bearer(_LITELLM_KEY),)))


_ENVOY_CONFIG: Final = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.\
http_connection_manager.v3.HttpConnectionManager
          stat_prefix: benchmark
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.\
Router
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: up, timeout: 0s}}}}]
  clusters:
  - name: up
    type: STATIC
    circuit_breakers:
      thresholds:
      - {{max_connections: {most}, max_pending_requests: {most}, max_requests: {most}}}
    load_assignment:
      cluster_name: up
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}
"""


def _envoy(site: Site) -> Started:
    port, config = free_port(), site.folder / "envoy.yaml"
    config.write_text(
        _ENVOY_CONFIG.format(
            port=port, upstream=site.upstream_port, most=_MAX_CONNECTIONS
        )
    )
    found = python_home("envoy").glob("lib/python*/site-packages/envoy/_bin/envoy")
    binary = _binary(next(found, Path("envoy")))
    process = Process(
        "envoy",
        [
            binary,
            *("-c", str(config), "--concurrency", "1", "--log-level", "error"),
            "--disable-hot-restart",
        ],
        core=GATEWAY_CORE,
        folder=site.folder,
    )
    return Started(process, Target(port))


def _nginx(site: Site) -> Started:
    port = free_port()
    process = plain_proxy(
        site.folder, port=port, upstream_port=site.upstream_port, core=GATEWAY_CORE
    )
    return Started(process, Target(port))


def _direct(site: Site) -> Started:
    return Started(None, Target(site.upstream_port))


def _binary(path: Path) -> str:
    if not path.is_file():
        raise PeerMissing("is not installed; `make bench-peers` says why")
    return str(path)


# In this order they take their turns: those whose ratio matters most are neighbours.
GATEWAYS: Final = (
    Gateway("direct", "no gateway", _direct),
    Gateway("nginx", "nginx, plain proxy", _nginx),
    Gateway("envoy", "Envoy, plain proxy", _envoy),
    Gateway("ours-redis", "LLMTune, Redis", _ours_redis),
    Gateway("ferrogw", "ferrogw", _ferrogw),
    Gateway("ours-memory", "LLMTune, memory", _ours_memory),
    Gateway("ours-no-metrics", "LLMTune, Redis, no metrics", _ours_no_metrics),
    Gateway(
        "ours-traces-1",
        "LLMTune, Redis, 1 % traced",
        lambda site: _ours_traced(site, "0.01"),
    ),
    Gateway(
        "ours-traces-100",
        "LLMTune, Redis, all traced",
        lambda site: _ours_traced(site, "1"),
    ),
    Gateway("ours-1000", "LLMTune, Redis, 1,000 workspaces", _ours_workspaces),
    Gateway("portkey", "Portkey", _portkey),
    Gateway("litellm", "LiteLLM", _litellm),
)
TITLES: Final = {gateway.name: gateway.title for gateway in GATEWAYS}
