"""A progress line on stderr: one line that is rewritten on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time

QUIET_SECONDS = 0.5
PLAIN_SECONDS = 5.0


class Progress:
    """Shows ``label``, how much of ``total`` is done, the rate and the time left.

    Nothing is written during the first half second, so that quick work stays silent. ``unit`` "B" prints bytes.
    """

    def __init__(self, total: int, label: str, unit: str = "") -> None:
        self.total, self.label, self.unit = total, label, unit
        self._start = self._shown = time.monotonic()
        self._tty = sys.stderr.isatty()
        self._drawn = False

    def update(self, done: int, total: int | None = None) -> None:
        """``done`` of ``total`` (which may have grown) is done."""
        self.total = self.total if total is None else total
        now = time.monotonic()
        if now - self._start < QUIET_SECONDS or now - self._shown < (0.1 if self._tty else PLAIN_SECONDS):
            return
        self._shown = now
        self._write(done, now - self._start)

    def close(self) -> None:
        """End the line, if one was begun."""
        if self._drawn and self._tty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _write(self, done: int, seconds: float) -> None:
        share = done / self.total if self.total else 0.0
        left = f", {seconds / share - seconds:.0f} s left" if 0 < share < 1 else ""
        text = f"{self.label} {share:4.0%} {self._amount(done)}, {self._amount(done / seconds)}/s{left}"
        if self._tty:
            filled = round(24 * min(share, 1.0))
            sys.stderr.write(f"\r\x1b[K[{'█' * filled}{'·' * (24 - filled)}] {text}")
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()
        self._drawn = True

    def _amount(self, count: float) -> str:
        if self.unit != "B":
            return f"{count:.0f}{' ' + self.unit if self.unit else ''}"
        for unit in ("B", "kB", "MB"):
            if count < 1000:
                return f"{count:.3g} {unit}"
            count /= 1000
        return f"{count:.3g} GB"
