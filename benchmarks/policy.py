"""The plans and keys our gateway is measured with: every dimension, and none binds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from policies.keyring import digest_of

_RATE: Final = "{of: requests, limit: 100000000, per: minute}"
# After its one request a workspace of this plan is refused until tomorrow.
_SPENT_RATE: Final = "{of: requests, limit: 1, per: day, burst: 1}"
_PLAN: Final = """\
plan: {name}
concurrency: 100000
rates:
  - {rate}
  - {{of: tokens, limit: 100000000000, per: minute}}
quotas:
  - {{of: requests, limit: 100000000000, per: day}}
  - {{of: tokens, limit: 1000000000000, per: month}}
request:
  {{max_input_tokens: 4194304, max_output_tokens: 65536, max_body_bytes: 33554432}}
"""


class Policy:
    """A folder of plans and a keys file; every key is its own workspace."""

    def __init__(self, folder: Path, *, workspaces: int) -> None:
        self.plans_dir = folder / "plans"
        self.plans_dir.mkdir(exist_ok=True)
        for name, rate in (("open", _RATE), ("spent", _SPENT_RATE)):
            text = _PLAN.format(name=name, rate=rate)
            (self.plans_dir / f"{name}.yaml").write_text(text)
        self.keys = [f"llmtune_gw_benchmark_{n:04}" for n in range(workspaces)]
        self.spent_key = "llmtune_gw_benchmark_spent"
        records = [
            _record(key, f"ws-{number}", "open") for number, key in enumerate(self.keys)
        ]
        records.append(_record(self.spent_key, "ws-spent", "spent"))
        self.keys_file = folder / "keys.yaml"
        self.keys_file.write_bytes(msgspec.yaml.encode({"keys": records}))


def _record(key: str, workspace: str, plan: str) -> dict[str, str]:
    return {"sha256": digest_of(key), "workspace": workspace, "plan": plan}
