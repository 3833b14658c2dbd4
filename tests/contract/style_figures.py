"""
The house style's figures for this code, as a table; exit 1 where a bound is broken.

Run by `make check`. Comments are reported, not bounded: a bound would breed empty ones.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from pathlib import Path
from typing import Final, NamedTuple

PACKAGES: Final = ("gateway", "policies", "grafana")
MAX_FILE_LINES: Final = 400
MAX_BODY_P90: Final = 25
MAX_BODY_LINES: Final = 60
PATCHES: Final = ("mock.patch", "MagicMock(", "monkeypatch.setattr")


class Figures(NamedTuple):
    """What one package looks like."""

    file_lines: dict[str, int]
    body_lines: dict[str, int]
    comment_lines: int
    code_lines: int


def figures_of(package: str) -> Figures:
    files, bodies, comments, code = {}, {}, 0, 0
    for path in sorted(Path(package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        files[str(path)] = text.count("\n")
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        comments += sum(token.type == tokenize.COMMENT for token in tokens)
        skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT)
        code += len({t.start[0] for t in tokens if t.type not in skipped})
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                bodies[f"{path}:{node.name}"] = _body_lines(node)
    return Figures(files, bodies, comments, code)


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    body = node.body[1:] if is_docstring else node.body
    if not body:
        return 0
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def patches_in_tests() -> list[str]:
    own = Path(__file__).name
    return [
        f"{path}:{number}"
        for path in sorted(Path("tests").rglob("*.py"))
        if path.name != own
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(patch in line for patch in PATCHES)
    ]


def main() -> int:
    broken: list[str] = []
    print(f"{'':10} {'files':>6} {'median':>7} {'max':>5} | {'functions':>9}", end="")
    print(f" {'p50':>4} {'p90':>4} {'max':>4} | comments per 100")
    for package in PACKAGES:
        f = figures_of(package)
        sizes, bodies = sorted(f.file_lines.values()), sorted(f.body_lines.values())
        p90 = bodies[int(len(bodies) * 0.9)]
        print(
            f"{package:10} {len(sizes):6} {statistics.median(sizes):7.0f} {sizes[-1]:5}"
            f" | {len(bodies):9} {statistics.median(bodies):4.0f} {p90:4}"
            f" {bodies[-1]:4} | {100 * f.comment_lines / f.code_lines:.1f}"
        )
        broken += [n for n, lines in f.file_lines.items() if lines > MAX_FILE_LINES]
        broken += [n for n, lines in f.body_lines.items() if lines > MAX_BODY_LINES]
        if p90 >= MAX_BODY_P90:
            broken.append(f"{package}: function bodies p90 {p90}")
    patches = patches_in_tests()
    print(f"{'tests':10} patches: {len(patches)}")
    for line in [*broken, *patches]:
        print(f"out of bounds: {line}")
    return 1 if broken or patches else 0


if __name__ == "__main__":
    sys.exit(main())
