"""
`llmtune-gateway demo`: a simulated LLMTune, the gateway in front of it, a key per plan.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.access_log import configure_logging
from gateway.addresses import Address
from gateway.app import Gateway
from gateway.secret import Secret
from gateway.server import running_gateway, signalled
from gateway.settings import Settings
from gateway.simulator.server import running_simulator
from gateway.simulator.settings import SimulatorSettings
from policies.keyring import digest_of, new_api_key
from policies.plan_files import load_plan_book

# Fast enough not to wait for, slow enough to see that it streams.
DEMO_TTFT_MS = 150
DEMO_TOKENS_PER_SECOND = 80

MODEL = "meta-llama/Llama-3.3-70B-Instruct"

# Nothing is indented: a snippet must work as pasted, in a shell or in Python's own.
TEXT = """\
LLMTune gateway demo: {url}/v1, in front of a simulated LLMTune. Ctrl-C ends it.

One key per plan:
{keys}

--- Python (pip install openai) ---
from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{key}")
messages = [{{"role": "user", "content": "Say hello in one sentence."}}]
for chunk in client.chat.completions.create(
    model="{model}", messages=messages, stream=True
): print(chunk.choices[0].delta.content or "", end="", flush=True)

--- curl ---
curl {url}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

Try the limits: the sandbox key may make 20 requests a minute and 2 at a time.
Try faults: the models simulator/cut, simulator/error, simulator/rate-limit, ...

--- access log ---
"""


async def run_demo(settings: Settings, *, port: int) -> None:
    """Run until interrupted."""
    told = signalled()
    configure_logging("warning")
    # Whatever plans are set, so that an operator can try their own.
    names = load_plan_book(settings.plans_dir).names
    keys = {plan: new_api_key() for plan in names}
    simulated = SimulatorSettings(
        ttft_ms=DEMO_TTFT_MS, tokens_per_second=DEMO_TOKENS_PER_SECOND
    )
    with _keys_file(keys) as keys_file:
        async with running_simulator(simulated) as simulator:
            here = msgspec.structs.replace(
                settings,
                upstream_url=simulator.base_url,
                upstream_api_key=Secret("simulated"),
                keys_file=keys_file,
            )
            gateway = Gateway(here, environment=os.environ)
            await _serve(gateway, keys, port, told)


async def _serve(
    gateway: Gateway,
    keys: dict[str, str],
    port: int,
    told: asyncio.Future[signal.Signals],
) -> None:
    async with running_gateway(gateway, Address(port=port)) as (_, address):
        width = max(map(len, keys))
        text = TEXT.format(
            url=address,
            keys="\n".join(f"  {plan:<{width}}  {key}" for plan, key in keys.items()),
            key=keys.get("sandbox", next(iter(keys.values()))),
            model=MODEL,
        )
        print(text, flush=True)
        logging.getLogger("gateway.access").setLevel(logging.INFO)
        await told


@contextmanager
def _keys_file(keys: dict[str, str]) -> Iterator[Path]:
    """A keys file for as long as the demo runs; digests only, like any other."""
    records = [
        {"sha256": digest_of(key), "workspace": f"demo-{plan}", "plan": plan}
        for plan, key in keys.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "keys.yaml")
        path.write_bytes(msgspec.yaml.encode({"keys": records}))
        yield path
