"""Tables for people, in columns as wide as they must be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def in_columns(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """One line a row below a heading."""
    lines = [heading, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in lines
    )
