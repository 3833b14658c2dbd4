"""What the image promises, read from the Dockerfile; `make prove-image` builds it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway import __version__
from tests.image.dockerfile import Instruction, Stage, parse_dockerfile

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
DOCKERFILE: Final = parse_dockerfile(TEXT)
FINAL: Final = DOCKERFILE.final
BUILDER: Final = DOCKERFILE.stage("builder")
LABELS: Final = "org.opencontainers.image."

STAGES: Final = [pytest.param(stage, id=stage.name) for stage in DOCKERFILE.stages]


def runs(stage: Stage) -> list[str]:
    return [run.rest for run in stage.all_of("RUN")]


def hadolint() -> str | None:
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.is_file() else shutil.which("hadolint")


# CI always has one: there it may not be missing unseen.
@pytest.mark.skipif(
    hadolint() is None and "CI" not in os.environ, reason="no hadolint here"
)
def test_hadolint_has_nothing_to_say() -> None:
    """Not even as advice, save where the Dockerfile says why."""
    command = [str(hadolint()), "--no-color", "--failure-threshold", "style"]
    done = subprocess.run(
        [*command, "Dockerfile"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert ("", "", 0) == (done.stdout, done.stderr, done.returncode)


def test_every_stage_begins_with_a_digest_a_stage_or_nothing() -> None:
    """A tag that moves cannot change what is built."""
    names = [stage.name for stage in DOCKERFILE.stages]
    pinned = "${PYTHON_NAME}@${PYTHON_DIGEST}"

    for number, stage in enumerate(DOCKERFILE.stages):
        assert stage.base in {pinned, "scratch", *names[:number]}, stage.base


def test_the_digest_has_no_default() -> None:
    """Whoever builds has looked it up: none that is made up or old can slip in."""
    assert DOCKERFILE.arguments["PYTHON_DIGEST"] is None


def test_the_base_is_slim_and_of_the_python_that_measured_fastest() -> None:
    """docs/benchmarks.md's figures are of this minor version."""
    name = DOCKERFILE.arguments["PYTHON_NAME"]

    assert "docker.io/library/python:3.11-slim-bookworm" == name


def test_no_frontend_and_no_files_are_fetched_besides() -> None:
    """A `syntax` line, ADD or an image behind COPY would be one more thing to pin."""
    names = {stage.name for stage in DOCKERFILE.stages}
    words = {each.word for stage in DOCKERFILE.stages for each in stage.instructions}
    sources = re.findall(r"--from=(\S+)", TEXT)

    assert not re.search(r"^#\s*(syntax|escape|check)\s*=", TEXT, re.MULTILINE)
    assert "<<" not in TEXT
    assert "ADD" not in words
    assert set(sources) <= names


@pytest.mark.parametrize("stage", STAGES)
def test_what_comes_from_an_index_is_a_wheel_with_a_hash(stage: Stage) -> None:
    """No package's own code runs in the build, and none is replaced on its way."""
    installs = [run for run in runs(stage) if " install " in run]
    for command in [part for run in installs for part in run.split("&&")]:
        if " install " not in command:
            continue
        if "--no-index" in command:
            assert "--no-deps" in command
            assert "/build/dist/" in command
        else:
            assert "--require-hashes" in command
            assert "--only-binary :all:" in command
            assert re.search(r"--requirement (runtime|build|sbom)\.lock$", command)


def test_nothing_comes_from_debians_archive() -> None:
    """Its packages have no lock file."""
    every = [run for stage in DOCKERFILE.stages for run in runs(stage)]

    assert not [run for run in every if re.search(r"\b(apt|apt-get|dpkg|apk)\b", run)]


def test_the_wheel_is_built_by_the_locked_builder() -> None:
    """Build isolation would fetch hatchling without a hash."""
    (build,) = [run for run in runs(BUILDER) if "hatchling build" in run]

    assert build.startswith("/build/venv/bin/python -m hatchling build")


def test_the_final_stage_installs_nothing_and_loses_its_installers() -> None:
    """Who breaks in finds neither pip nor a compiler."""
    (removal,) = runs(FINAL)

    assert " install" not in removal.replace("uninstall", "")
    assert re.search(r"uninstall .*pip setuptools wheel", removal)
    assert "ensurepip" in removal
    assert {"builder", "inventory"} == set(
        re.findall(r"--from=(\S+)", " ".join(copied(FINAL)))
    )


def test_the_final_stage_copies_only_the_environment_and_its_list() -> None:
    """Neither sources nor locks nor build tools."""
    assert [
        "--from=builder /opt/llmtune /opt/llmtune",
        "--from=inventory /sbom/llmtune-gateway.cdx.json /usr/share/llmtune/",
    ] == copied(FINAL)


def copied(stage: Stage) -> list[str]:
    return [each.rest for each in stage.all_of("COPY")]


def test_the_user_is_a_number_that_is_not_roots() -> None:
    """`runAsNonRoot` cannot judge a name."""
    assert "10001:10001" == FINAL.only("USER").rest


def test_files_of_the_image_are_roots() -> None:
    """The process cannot change its own code, even on a writable root."""
    assert "chown" not in TEXT
    assert "chmod" not in TEXT


@pytest.mark.parametrize("word", ["ENTRYPOINT", "CMD"])
def test_commands_are_in_exec_form(word: str) -> None:
    """A shell between would keep SIGTERM to itself, and nothing would drain."""
    assert FINAL.only(word).exec_form() is not None


def test_the_image_serves_on_every_address_by_default() -> None:
    """On loopback a container's port leads nowhere."""
    command = FINAL.only("ENTRYPOINT").exec_form() + FINAL.only("CMD").exec_form()  # type: ignore[operator]  # a test above has seen that neither is None

    assert "llmtune-gateway serve --host 0.0.0.0 --port 8080" == " ".join(command)


def test_health_is_asked_where_the_gateway_listens() -> None:
    """In exec form too, within bounded time."""
    options, _, command = FINAL.only("HEALTHCHECK").rest.partition("CMD")

    assert Instruction("CMD", command.strip()).exec_form() == [
        *("llmtune-gateway", "health", "--port", "8080")
    ]
    assert {"--interval", "--timeout", "--start-period", "--retries"} == {
        option.partition("=")[0] for option in options.split()
    }


def test_its_ports_are_told() -> None:
    """The API, the operators' and the rate-limit service's."""
    assert {"8080", "9090", "8081"} == set(FINAL.only("EXPOSE").rest.split())


def test_labels_say_what_it_is_and_what_it_was_made_of() -> None:
    """Those of OCI's list, given by arguments where they differ from build to build."""
    labels = dict(re.findall(r'(\S+?)="([^"]*)"', FINAL.only("LABEL").rest))

    assert {
        f"{LABELS}version": "${VERSION}",
        f"{LABELS}revision": "${REVISION}",
        f"{LABELS}created": "${CREATED}",
        f"{LABELS}source": "${SOURCE}",
        f"{LABELS}base.name": "${PYTHON_NAME}",
        f"{LABELS}base.digest": "${PYTHON_DIGEST}",
    }.items() <= labels.items()
    assert {f"{LABELS}title", f"{LABELS}description"} < set(labels)


@pytest.mark.parametrize("stage", [BUILDER, FINAL], ids=["builder", "final"])
def test_the_labelled_version_is_the_codes(stage: Stage) -> None:
    """And the build stops where it is not."""
    assert f"VERSION={__version__}" in [each.rest for each in stage.all_of("ARG")]
    assert [run for run in runs(BUILDER) if "--version" in run and "${VERSION}" in run]


def test_bytecode_is_made_in_the_build_and_depends_on_no_time() -> None:
    """A read-only root cannot keep what a start compiles."""
    compiles = [run for stage in (BUILDER, FINAL) for run in runs(stage)]
    compiles = [run for run in compiles if "compileall" in run]

    assert 2 == len(compiles)
    assert all("--invalidation-mode unchecked-hash" in run for run in compiles)
    assert "PYTHONDONTWRITEBYTECODE=1" in FINAL.only("ENV").rest


def test_the_list_of_contents_can_be_exported_alone() -> None:
    """`--target sbom` gives that one file."""
    stage = DOCKERFILE.stage("sbom")

    assert "scratch" == stage.base
    assert ["--from=inventory /sbom/llmtune-gateway.cdx.json /"] == copied(stage)


def test_no_line_is_for_one_architecture() -> None:
    """The same file builds for every platform that its wheels exist for."""
    assert not re.search(r"amd64|arm64|x86_64|aarch64|--platform", TEXT)


def test_no_secret_is_an_argument() -> None:
    """Arguments stay readable in an image's history; a mounted secret does not."""
    arguments = [
        each.rest for stage in DOCKERFILE.stages for each in stage.all_of("ARG")
    ]

    assert not [
        each for each in arguments if re.search("(?i)key|token|passw|url", each)
    ]
    assert "--mount=type=secret,id=pip_conf" in TEXT
