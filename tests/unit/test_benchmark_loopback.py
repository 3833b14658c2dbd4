"""The load tools of the benchmarks load this machine and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import load_rate, load_streams
from benchmarks.loopback import NotLoopback, loopback_port
from benchmarks.requests import Target
from benchmarks.wrk import run_wrk

ELSEWHERE = [
    pytest.param("http://192.0.2.1:8080/", id="another-machine"),
    pytest.param("http://10.0.0.1:8080/", id="private"),
    pytest.param("http://localhost:8080/", id="a-name-could-resolve-anywhere"),
    pytest.param("http://127.0.0.1.example:8080/", id="looks-like-loopback"),
    pytest.param("http://127.0.0.1@192.0.2.1:8080/", id="user-info"),
    pytest.param("https://127.0.0.1:8080/", id="another-scheme"),
    pytest.param("http://127.0.0.1/", id="no-port"),
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_any_other_address_is_refused(url: str) -> None:
    with pytest.raises(NotLoopback):
        loopback_port(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/v1", "http://[::1]:8080/"])
def test_loopback_address_gives_its_port(url: str) -> None:
    assert 8080 == loopback_port(url)


@pytest.mark.parametrize("tool", [load_rate, load_streams])
def test_load_tool_refuses_before_it_connects(tool: Any) -> None:
    with pytest.raises(NotLoopback):
        tool.run({"url": "http://192.0.2.1:8080/", "header_sets": []})


def test_wrk_is_not_even_looked_for(tmp_path: Path) -> None:
    class Elsewhere(Target):
        @property
        def url(self) -> str:
            return "http://192.0.2.1:8080/"

    with pytest.raises(NotLoopback):
        run_wrk(Elsewhere(8080), b"", connections=1, seconds=1, folder=tmp_path)
