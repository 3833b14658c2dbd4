"""The README's table of values, from the comments of `values.yaml`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

BEGIN: Final = "<!-- values: written by `python -m helm` -->"
END: Final = "<!-- end of values -->"

_SAID: Final = re.compile(r"( *)# -- (.+)")
# A sentence of a word or two stands behind its value.
_NAMED: Final = re.compile(r"( *)([A-Za-z]+):(.*?)(?: # -- (.+))?")


class Undocumented(Exception):
    """A value without a sentence, or a sentence without a value."""


def rows_of(text: str, values: Any) -> Iterator[tuple[str, str, str]]:
    """Each value's path, default and sentence."""
    path: list[str] = []
    said: str | None = None
    for line in text.splitlines():
        comment, named = _SAID.fullmatch(line), _NAMED.fullmatch(line)
        if comment is not None:
            said = comment[2]
        elif named is not None:
            del path[len(named[1]) // 2 :]
            path.append(named[2])
            is_group = not named[3].strip()
            said = said or named[4]
            if is_group == (said is not None):
                raise Undocumented(".".join(path))
            if said is not None:
                yield ".".join(path), json.dumps(_at(values, path)), said
            said = None
        elif line.strip():
            raise Undocumented(line)


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values[name]
    return values


def with_table(readme: str, text: str, values: Any) -> str:
    """The README with its table as `values.yaml` has it."""
    rows = [
        f"| `{path}` | `{default}` | {said} |"
        for path, default, said in rows_of(text, values)
    ]
    table = "\n".join(("| value | default | effect |", "|---|---|---|", *rows))
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"
