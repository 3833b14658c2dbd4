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


def load_script(
    *parts: str, name: str | None = None, is_allowed_when_full: bool = False
) -> Script:
    """
    Join `policies/lua/<part>.lua` in this order, as a script of the last one's name.

    Only the first may begin with `#!lua`, since Redis wants it at the very start. One
    that gives memory back may run where there is none left.
    """
    folder = files("policies").joinpath("lua")
    files_of_it = [folder.joinpath(f"{part}.lua") for part in parts]
    text = "".join(file.read_text(encoding="utf-8") for file in files_of_it)
    if is_allowed_when_full:
        text = text.replace("#!lua", "#!lua flags=allow-oom", 1)
    return to_script(name or parts[-1], text)
