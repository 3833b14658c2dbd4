"""A value that shows itself to nobody who does not ask for it by name."""

from __future__ import annotations


class Secret:
    """Text that prints as stars, so that no log, error or repr can carry it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Secret(***)"

    def reveal(self) -> str:
        return self._text

    def split(self) -> tuple[Secret, ...]:
        """The secrets in one text, which spaces separate."""
        return tuple(map(Secret, self._text.split()))
