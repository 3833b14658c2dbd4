"""nginx's two parts in a run: the upstream of whole answers, and a plain proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.peers import tool, tool_environment
from benchmarks.processes import Process
from benchmarks.requests import chat_answer, inference_answer

# One process: a worker would survive a master that is killed with the run.
# Everything in memory, connections kept for good, no access log; what nginx would write
# is below the run's own folder, as it need not be root.
_FRAME: Final = """\
daemon off; master_process off; pid {folder}/{name}.pid; error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off; tcp_nodelay on; default_type application/json;
  keepalive_requests 1000000000; keepalive_timeout 300s;
  client_max_body_size 8m; client_body_buffer_size 2m;
  client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy;
  fastcgi_temp_path {folder}/{name}-fastcgi; uwsgi_temp_path {folder}/{name}-uwsgi;
  scgi_temp_path {folder}/{name}-scgi;
  {content}
}}
"""
_UPSTREAM: Final = """\
server {{
    listen 127.0.0.1:{port} backlog=4096;
    location ~ /inference$ {{ return 200 '{inference}'; }}
    location ~ /chat/completions$ {{ return 200 '{chat}'; }}
    location / {{ return 200 '{{"object":"list","data":[]}}'; }}
  }}
"""
_PROXY: Final = """\
upstream benchmark {{
    server 127.0.0.1:{upstream}; keepalive 4096; keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://benchmark; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 300s;
    }}
  }}
"""


def static_upstream(folder: Path, *, port: int, core: int) -> Process:
    """Answers every inference and every chat completion at once, always the same."""
    content = _UPSTREAM.format(
        port=port, inference=inference_answer(), chat=chat_answer()
    )
    return _nginx("upstream", content, folder, core)


def plain_proxy(folder: Path, *, port: int, upstream_port: int, core: int) -> Process:
    """A reverse proxy that looks at nothing and limits nothing."""
    return _nginx(
        "nginx", _PROXY.format(port=port, upstream=upstream_port), folder, core
    )


def _nginx(name: str, content: str, folder: Path, core: int) -> Process:
    config = folder / f"{name}.conf"
    config.write_text(_FRAME.format(folder=folder, name=name, content=content))
    command = [tool("nginx"), "-p", str(folder), "-c", str(config), "-e", "stderr"]
    return Process(
        name, command, core=core, folder=folder, environment=tool_environment()
    )
