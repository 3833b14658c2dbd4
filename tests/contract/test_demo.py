"""The demo as a stranger meets it: snippets that work as pasted, a polite end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.clients.prepare import python_of

ANSWER_WORDS: Final = 3


class Demo(NamedTuple):
    """A running demo and what it printed."""

    process: subprocess.Popen[str]
    printed: str

    def snippet(self, title: str) -> str:
        """What stands below a title, up to the next."""
        found = re.search(rf"--- {title}.*? ---\n(.*?)\n\n", self.printed, re.DOTALL)
        assert found, self.printed
        return found[1] + "\n\n"


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GATEWAY_")}
    with subprocess.Popen(
        (sys.executable, "-m", "gateway", "demo", "--port", "0"),
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if "access log" in line:
                break
        try:
            yield Demo(process, printed)
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            assert process.wait(timeout=20) == 0


def test_the_demo_prints_a_key_per_plan(demo: Demo) -> None:
    """One to try each plan's limits with."""
    keys = re.findall(r"^  (\w+) +(llmtune_gw_\S+)$", demo.printed, re.MULTILINE)

    assert [plan for plan, _ in keys] == ["enterprise", "growth", "sandbox"]
    assert len({key for _, key in keys}) == 3


def test_the_python_snippet_works_as_pasted(demo: Demo) -> None:
    """In a file and at Python's own prompt alike."""
    python = str(python_of("3.54.0"))
    for arguments in ((python, "-"), (python, "-i")):
        done = subprocess.run(
            arguments,
            input=demo.snippet("Python"),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stdout.split()) > ANSWER_WORDS


def test_the_curl_snippet_works_as_pasted(demo: Demo, tmp_path: Path) -> None:
    """Backslashes, quotes and all."""
    script = tmp_path / "snippet.sh"
    script.write_text(demo.snippet("curl"))

    done = subprocess.run(
        ("bash", str(script)), capture_output=True, text=True, timeout=30, check=False
    )

    assert '"object":"chat.completion"' in done.stdout, done.stderr
