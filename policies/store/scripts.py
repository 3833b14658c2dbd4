"""Lua scripts: files of `policies/lua`, and the sha by which Redis knows each."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import msgspec


class Script(msgspec.Struct, frozen=True):
    """A script as it is sent. Two versions have two shas and live side by side."""

    name: str
    text: str
    sha: str


def to_script(name: str, text: str) -> Script:
    """A script from its text."""
    # Redis names scripts by SHA-1; nothing secret hangs on it.
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name=name, text=text, sha=sha)


def load_script(*names: str, is_allowed_when_full: bool = False) -> Script:
    """
    Join `policies/lua/<name>.lua` in this order; the last one names the script.

    Only the first may begin with `#!lua`, since Redis wants it at the very start. One
    that gives memory back may run where there is none left.
    """
    folder = files("policies").joinpath("lua")
    parts = [folder.joinpath(f"{name}.lua") for name in names]
    text = "".join(part.read_text(encoding="utf-8") for part in parts)
    if is_allowed_when_full:
        text = text.replace("#!lua", "#!lua flags=allow-oom", 1)
    return to_script(names[-1], text)
