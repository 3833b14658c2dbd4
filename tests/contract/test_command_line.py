"""The command line as people meet it: what it prints, and how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from policies.keyring import digest_of, load_keys_file


def run(*arguments: str, given: str = "", **environment: str) -> tuple[int, str, str]:
    """Run the real command; its exit code, output and errors."""
    done = subprocess.run(
        (sys.executable, "-m", "gateway", *arguments),
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


def test_plans_check_is_content_with_the_shipped_plans() -> None:
    """What we ship is what we check with."""
    code, output, _ = run("plans", "check")

    assert code == 0
    assert "enterprise, growth, sandbox" in output


def test_plans_check_names_file_field_and_problem(tmp_path: Path) -> None:
    """One line a mistake, exit 1, so that a pipeline stops."""
    (tmp_path / "broken.yaml").write_text("plan: broken\nconcurency: 2\n")

    code, _, errors = run("plans", "check", str(tmp_path))

    assert code == 1
    assert re.search(r"broken\.yaml: concurency: .*concurrency", errors)


def test_plans_show_prints_what_is_in_force(tmp_path: Path) -> None:
    """Also what a workspace's own fields make of its plan."""
    text = "plan: mine\nconcurrency: 1\nworkspaces: {acme: {concurrency: 7}}\n"
    (tmp_path / "mine.yaml").write_text(text)

    code, output, _ = run("plans", "show", GATEWAY_PLANS_DIR=str(tmp_path))

    assert code == 0
    assert "workspace: acme" in output
    assert "limit: 7" in output


def test_keys_hash_reads_a_key_and_prints_its_digest_only() -> None:
    """The line goes into a keys file; the key goes nowhere."""
    code, output, errors = run("keys", "hash", "--plan", "growth", given="my-secret\n")

    assert code == 0
    assert digest_of("my-secret") in output
    assert "my-secret" not in output + errors


def test_the_readmes_keys_file_is_one(tmp_path: Path) -> None:
    """Its commands, word for word, make a file that the server takes."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    commands = [
        line for line in readme.splitlines() if "keys.yaml" in line and ">" in line
    ]
    program = f"{sys.executable} -m gateway"
    script = "\n".join(commands).replace("llmtune-gateway", program)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        ("bash", "-e", "-c", script), cwd=tmp_path, check=True, env=environment
    )

    keyring = load_keys_file(tmp_path / "keys.yaml")

    assert ["acme"] == [record.workspace for record in keyring.records]


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        pytest.param(
            (), {"GATEWAY_OPS_PORT": "x"}, "GATEWAY_OPS_PORT='x'", id="setting"
        ),
        pytest.param(
            (),
            {"GATEWAY_UPSTREAM_API_KEY": "sk \u00e9"},
            "API_KEY=(not shown)",
            id="key",
        ),
        pytest.param((), {"GATEWAY_STORE_URL": "rabbit://h"}, "memory://", id="store"),
        pytest.param(("--workers", "4"), {}, "memory://", id="workers"),
        pytest.param((), {"GATEWAY_DEFAULT_PLAN": "gold"}, "gold", id="default plan"),
        pytest.param((), {"GATEWAY_KEYS_FILE": "/no/such"}, "such", id="no keys file"),
        pytest.param(
            (), {"SSL_CERT_FILE": "/no/such"}, "SSL_CERT_FILE", id="certificates"
        ),
    ],
)
def test_a_wrong_start_ends_with_one_line(
    arguments: tuple[str, ...], environment: dict[str, str], complaint: str
) -> None:
    """No traceback, no half-started server."""
    code, _, errors = run("serve", *arguments, **environment)

    assert code in {1, 2}
    assert complaint in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("number", ["0", "65", "x", "-1", "2.0", ""])
def test_a_number_of_workers_is_bounded(number: str) -> None:
    """Told as every wrong argument is."""
    code, _, errors = run("serve", f"--workers={number}")

    assert code == 2
    assert f"{number!r} is not a number of workers (1 to 64)" in errors


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        pytest.param({"GATEWAY_OPS_PORT": "x"}, "GATEWAY_OPS_PORT='x'", id="setting"),
        pytest.param({"GATEWAY_KEYS_FILE": "/no/such"}, "such", id="no keys file"),
        pytest.param({"GATEWAY_DEFAULT_PLAN": "gold"}, "gold", id="default plan"),
        pytest.param(
            {"GATEWAY_STORE_URL": "rediss://localhost?ssl_ca_certs=/no/such"},
            "GATEWAY_STORE_URL",
            id="certificates",
        ),
    ],
)
def test_workers_start_wrongly_as_one_process_does(
    environment: dict[str, str], complaint: str
) -> None:
    """One line with one exit code, however many there would be."""
    store = {"GATEWAY_STORE_URL": "redis://localhost", **environment}

    alone = run("serve", **store)
    together = run("serve", "--workers", "3", **store)

    assert complaint in together[2]
    assert len(together[2].splitlines()) == 1
    assert alone == together


def test_a_typing_error_in_a_variable_is_pointed_out() -> None:
    """Kubernetes injects variables of its own, so it is a warning and no more."""
    _, _, errors = run("serve", "--workers", "2", GATEWAY_UPSTREM_URL="http://x")

    assert "did you mean GATEWAY_UPSTREAM_URL?" in errors
