"""What is going on, on standard error: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from typing import Final, TextIO

from gateway.conformance.output import columns_of, tell

BAR_CELLS: Final = 24
# Clears what a longer text left behind: "erase to the end of the line" (ECMA-48).
ERASE: Final = "\x1b[K"


class Progress:
    """Told before each step; silent without a stream to write to."""

    def __init__(self, stream: TextIO | None, steps: int) -> None:
        self._stream = stream
        self._steps = max(1, steps)
        self._done = 0
        self.now = "looking at the limits"

    def step(self, text: str) -> None:
        self.now = text
        columns = columns_of(self._stream)
        if columns is None:
            self._tell(f"{text}\n")
        else:
            filled = BAR_CELLS * min(self._done, self._steps) // self._steps
            bar = "#" * filled + "." * (BAR_CELLS - filled)
            # A line that wrapped could not be overwritten by the next.
            self._tell(f"\r{f'[{bar}] {text}'[: columns - 1]}{ERASE}")
        self._done += 1

    def end(self) -> None:
        """Leave the terminal's line empty for what comes next."""
        if columns_of(self._stream) is not None:
            self._tell(f"\r{ERASE}")

    def _tell(self, text: str) -> None:
        # Nobody reads it any more: the run is not worse for that.
        if tell(self._stream, text) is not None:
            self._stream = None
