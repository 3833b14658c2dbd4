"""What is going on, on standard error: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from typing import Final, TextIO

BAR_CELLS: Final = 24
# Clears what a longer text left behind: "erase to the end of the line" (ECMA-48).
ERASE: Final = "\x1b[K"


class Progress:
    """Told before each step; silent without a stream to write to."""

    def __init__(self, stream: TextIO | None, steps: int) -> None:
        self._stream = stream
        self._steps = max(1, steps)
        self._done = 0
        self._is_terminal = stream is not None and stream.isatty()

    def step(self, text: str) -> None:
        if self._stream is None:
            return
        if self._is_terminal:
            filled = BAR_CELLS * min(self._done, self._steps) // self._steps
            bar = "#" * filled + "." * (BAR_CELLS - filled)
            self._stream.write(f"\r[{bar}] {text}{ERASE}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()
        self._done += 1

    def end(self) -> None:
        """Leave the terminal's line empty for what comes next."""
        if self._stream is not None and self._is_terminal:
            self._stream.write(f"\r{ERASE}")
            self._stream.flush()
