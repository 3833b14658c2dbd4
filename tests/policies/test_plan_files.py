"""Plan files: what is read, what is refused, and in which words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from policies.plan_files import (
    MAX_PLAN_FILE_BYTES,
    PlanBook,
    PlanProblems,
    load_plan_book,
)
from policies.plans import (
    BatchLimits,
    Concurrency,
    Plan,
    PrivateFleet,
    Quota,
    Rate,
    RequestBounds,
)

BAD_FILES = sorted((Path(__file__).parent / "plans_bad").glob("*.yaml"))


def write(directory: Path, **files: str) -> Path:
    for name, content in files.items():
        (directory / f"{name}.yaml").write_text(content)
    return directory


def problems_of(directory: Path) -> list[str]:
    with pytest.raises(PlanProblems) as refusal:
        load_plan_book(directory)
    return str(refusal.value).splitlines()


def test_sandbox_is_the_plan_of_the_design() -> None:
    expected = Plan(
        plan="sandbox",
        title="Sandbox",
        concurrency=Concurrency(limit=2),
        rates=(
            Rate(of="requests", limit=20, per="minute"),
            Rate(of="tokens", limit=20_000, per="minute"),
        ),
        quotas=(
            Quota(of="requests", limit=500, per="day"),
            Quota(of="tokens", limit=2_000_000, per="month"),
        ),
        request=RequestBounds(
            max_input_tokens=8192, max_output_tokens=2048, max_body_bytes=1_048_576
        ),
        batch=BatchLimits(
            max_lines=1000,
            enqueued_tokens=200_000,
            concurrent_batches=2,
            stored_file_bytes=1_073_741_824,
        ),
    )

    assert load_plan_book(None).plan_for("sandbox", "anybody") == expected


def test_shipped_plans_are_three_and_fit_their_own_largest_request() -> None:
    book = load_plan_book(None)

    assert book.names == ("enterprise", "growth", "sandbox")
    for plan in book.plans:
        bounds = plan.request
        assert bounds.max_input_tokens is not None
        assert bounds.max_output_tokens is not None
        largest = bounds.max_input_tokens + bounds.max_output_tokens
        assert all(largest <= r.capacity for r in plan.rates if r.of == "tokens")


def test_only_the_name_is_required_and_all_else_is_unlimited(tmp_path: Path) -> None:
    book = load_plan_book(write(tmp_path, free="plan: free\n"))

    assert book.plan_for("free", "anybody") == Plan(plan="free")
    assert Plan(plan="free").limits == ()


def test_every_field_is_read(tmp_path: Path) -> None:
    content = """\
        plan: full
        title: All of it
        concurrency: {limit: 2, shadow: true}
        rates:
          - {of: tokens, limit: 2_000, per: hour, burst: 500, shadow: true}
        quotas: [{of: tokens, limit: 0, per: hour}]
        request: {max_body_bytes: 7}
        models: [gpt-4o, "meta/*"]
        on_store_failure: closed
        upstream: {url: "http://[::1]:8080/v1", api_key_env: FLEET_KEY}
    """

    plan = load_plan_book(write(tmp_path, full=content)).plan_for("full", "w")

    assert plan == Plan(
        plan="full",
        title="All of it",
        concurrency=Concurrency(limit=2, shadow=True),
        rates=(Rate(of="tokens", limit=2000, per="hour", burst=500, shadow=True),),
        quotas=(Quota(of="tokens", limit=0, per="hour"),),
        request=RequestBounds(max_body_bytes=7),
        models=("gpt-4o", "meta/*"),
        on_store_failure="closed",
        upstream=PrivateFleet(url="http://[::1]:8080/v1", api_key_env="FLEET_KEY"),
    )


def test_workspace_overrides_single_fields_and_keeps_the_others(tmp_path: Path) -> None:
    content = """\
        plan: contract
        concurrency: 5
        rates: [{of: requests, limit: 1, per: second}]
        workspaces:
          acme:
            concurrency: null
            upstream: {url: https://acme.example/v1}
          globex: {concurrency: 9}
    """

    book = load_plan_book(write(tmp_path, contract=content))
    acme, globex, other = (
        book.plan_for("contract", workspace) for workspace in ("acme", "globex", "x")
    )

    assert acme is not None
    assert acme.upstream == PrivateFleet(url="https://acme.example/v1")
    assert acme.concurrency is None
    assert globex is not None
    assert globex.concurrency == Concurrency(limit=9)
    assert other is not None
    assert other.concurrency == Concurrency(limit=5)
    assert acme.rates == globex.rates == other.rates != ()
    assert set(book.overrides) == {("contract", "acme"), ("contract", "globex")}


def test_plan_nobody_wrote_is_none() -> None:
    assert load_plan_book(None).plan_for("platinum", "w") is None


def test_words_that_yaml_once_took_for_booleans_stay_words(tmp_path: Path) -> None:
    content = "plan: words\nworkspaces: {no: {title: off}}\n"

    plan = load_plan_book(write(tmp_path, words=content)).plan_for("words", "no")

    assert plan is not None
    assert plan.title == "off"


@pytest.mark.parametrize("bad_file", BAD_FILES, ids=lambda path: path.stem)
def test_mistake_is_refused_by_file_and_field(bad_file: Path, tmp_path: Path) -> None:
    expected = bad_file.read_text().splitlines()[0].removeprefix("# refused: ")
    shutil.copy(bad_file, tmp_path)

    problems = problems_of(tmp_path)

    assert [line for line in problems if line.startswith(f"{bad_file.name}: ")]
    assert any(line.startswith(f"{bad_file.name}: {expected}") for line in problems)


def test_bad_files_make_no_other_problem_than_the_one_they_show() -> None:
    # A name that is not the file's is a second, unavoidable mistake of two of them.
    allowed_two = {"plan-name-in-capitals", "plan-missing"}

    for bad_file in BAD_FILES:
        copied = problems_of_one(bad_file)
        assert len(copied) == 1 or bad_file.stem in allowed_two, copied


def problems_of_one(bad_file: Path) -> list[str]:
    """The problems of one file, read from a directory in which it is alone."""
    with pytest.raises(PlanProblems) as refusal:
        load_plan_book(bad_file.parent)
    mine = [p for p in refusal.value.problems if p.file == bad_file.name]
    return [str(problem) for problem in mine]


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, a="plan: a\ntitle: 1\nmodels: []\n", b="plan: c\nconcurrency: x\n")

    problems = problems_of(tmp_path)

    assert [": ".join(problem.split(": ")[:2]) for problem in problems] == [
        "a.yaml: title",
        "a.yaml: models",
        "b.yaml: concurrency",
        "b.yaml: plan",
    ]


def test_two_files_of_one_plan_are_refused(tmp_path: Path) -> None:
    write(tmp_path, twin="plan: twin\n")
    (tmp_path / "twin.yml").write_text("plan: twin\n")

    assert problems_of(tmp_path) == ["twin.yml: plan: is also the plan of twin.yaml"]


def test_values_are_not_quoted_in_problems(tmp_path: Path) -> None:
    secret = "sk-live-0123456789abcdefghijklmnopqrstuvwxyz"
    write(
        tmp_path,
        leak=f"plan: leak\nupstream: {{url: {secret}}}\n{secret}: 1\n",
        broken=f"plan: 'broken\n{secret}: [\n",
    )

    assert secret not in "\n".join(problems_of(tmp_path))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"", "must not be empty", id="empty"),
        pytest.param(b"# only this\n", "must not be empty", id="only-a-comment"),
        pytest.param(
            b"plan: x\xff\n", "must be UTF-8 text; byte 8 is not", id="latin-1"
        ),
        pytest.param(b"plan: x\x00\n", "is not YAML: it holds characters", id="nul"),
        pytest.param(
            b"#" * (MAX_PLAN_FILE_BYTES + 1),
            "must have at most 1048576 bytes",
            id="huge",
        ),
        pytest.param(b"[" * 100_000, "must nest at most 16 deep", id="deep"),
        pytest.param(
            b"a: &a [x]\n"
            + b"".join(
                b"%c: &%c [*%c, *%c]\n" % (c, c, c - 1, c - 1) for c in b"bcdefgh"
            ),
            "must not use anchors or aliases, as line 1 does",
            id="billion-laughs",
        ),
    ],
)
def test_content_that_is_no_plan_is_refused(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_bytes(content)

    (line,) = problems_of(tmp_path)

    assert line.startswith(f"x.yaml: {problem}")


def test_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfplan: x\n")

    assert load_plan_book(tmp_path).names == ("x",)


def test_directory_without_plans_is_refused(tmp_path: Path) -> None:
    assert [f"{tmp_path}: holds no .yaml or .yml file"] == problems_of(tmp_path)


def test_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing"

    assert [f"{missing}: cannot be read: No such file or directory"] == problems_of(
        missing
    )


def test_plan_file_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").mkdir()

    assert problems_of(tmp_path) == ["x.yaml: cannot be read: Is a directory"]


def test_files_of_a_mounted_config_map_are_read_once(tmp_path: Path) -> None:
    version = tmp_path / "..2026_11_23"
    version.mkdir()
    write(version, x="plan: x\n")
    (tmp_path / "..data.yaml").symlink_to(version)
    (tmp_path / "x.yaml").symlink_to(version / "x.yaml")

    assert load_plan_book(tmp_path).names == ("x",)


def test_digest_is_of_what_files_mean_not_how_they_are_written(tmp_path: Path) -> None:
    for name in "one", "two", "three":
        (tmp_path / name).mkdir()
    write(tmp_path / "one", x="plan: x\nconcurrency: 2\n")
    write(tmp_path / "two", x="# the same\nconcurrency: {limit: 2}\nplan: x\n")
    write(tmp_path / "three", x="plan: x\nconcurrency: 3\n")

    one, two, three = (
        load_plan_book(tmp_path / name).digest for name in ("one", "two", "three")
    )

    assert one == two != three


def test_digest_covers_overrides() -> None:
    plan, other = Plan(plan="x"), Plan(plan="x", title="other")

    assert PlanBook([plan]).digest != PlanBook([plan], {("x", "acme"): other}).digest
