"""
openai-python 1.109.1, 2.54.0, 3.54.0 and openai-node 6.49.0 work unchanged.

Each test is one promise of `promises.py` to one client; the client's own program, in
its own environment, has already run when the first of its tests asks.
"""

from __future__ import annotations

import shutil

import pytest

from tests.clients import promises
from tests.clients.matrix import Report, run_client
from tests.clients.prepare import (
    COMMAND,
    NODE_HINT,
    NODE_HOME,
    NODE_SOURCES,
    NODE_VERSION,
    PYTHON_VERSIONS,
    SKIP_NODE,
    is_node_ready,
    is_node_skipped,
    is_python_ready,
    python_of,
)

# Warnings are errors, among them pydantic's about fields of an unexpected type; but not
# those of the clients' own dependencies about each other.
PYTHON_PROGRAM = ("-W", "error::UserWarning", "-m", "tests.clients.python")


def each(promised: dict[str, str]) -> list[object]:
    """A test for every promise; of the broken ones it is expected to fail."""
    return [
        pytest.param(
            name,
            marks=[pytest.mark.xfail(reason=promises.BROKEN[name], strict=True)]
            if name in promises.BROKEN
            else [],
        )
        for name in promised
    ]


@pytest.fixture(scope="module", params=PYTHON_VERSIONS)
def python_client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Report:
    """What openai-python of one version has to report."""
    version: str = request.param
    if not is_python_ready(version):
        pytest.fail(f"openai-python {version} is not installed; run {COMMAND}")
    command = [str(python_of(version)), *PYTHON_PROGRAM]
    return run_client(command, tmp_path_factory.mktemp("openai-python"))


@pytest.fixture(scope="module", params=[NODE_VERSION])
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What openai-node has to report."""
    if is_node_skipped():
        pytest.skip(f"{SKIP_NODE} is set")
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        pytest.fail(NODE_HINT)
    if not is_node_ready():
        pytest.fail(f"openai-node is not installed; run {COMMAND}")
    # Node looks for packages beside the program, so both go to one place.
    home = tmp_path_factory.mktemp("openai-node")
    program = shutil.copytree(NODE_SOURCES, home / "client") / "program" / "main.js"
    (home / "client" / "node_modules").symlink_to(NODE_HOME / "node_modules")
    return run_client([node, str(program)], home)


@pytest.mark.parametrize("name", each(promises.PYTHON))
def test_openai_python(python_client: Report, name: str) -> None:
    """What is promised to Python programs holds for every generation of the client."""
    python_client.check(name, promises.PYTHON[name])


@pytest.mark.parametrize("name", each(promises.NODE))
def test_openai_node(node_client: Report, name: str) -> None:
    """What is promised to Node programs holds."""
    node_client.check(name, promises.NODE[name])


def test_openai_python_runs_nothing_unpromised(python_client: Report) -> None:
    """A scenario without a promise would be run and never be looked at."""
    assert set(promises.PYTHON) == set(python_client.outcomes)


def test_openai_node_runs_nothing_unpromised(node_client: Report) -> None:
    """The same for Node."""
    assert set(promises.NODE) == set(node_client.outcomes)
