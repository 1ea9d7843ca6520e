"""A progress line on stderr: one line that is rewritten on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time

QUIET_SECONDS = 0.5
REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 5.0
BAR = 24


class Progress:
    """Shows ``label``, how much of ``total`` is done, the rate and the time left.

    Nothing is written during the first half second, so that quick work stays silent. ``unit`` "B" prints bytes.
    ``start`` was done before (a download that goes on): it counts as done, not towards the rate.
    """

    def __init__(self, total: int, label: str, unit: str = "", start: int = 0) -> None:
        self.total, self.label, self.unit, self._begin = total, label, unit, start
        self._start = self._shown = time.monotonic()
        self._tty = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = False

    def update(self, done: int, total: int | None = None) -> None:
        """``done`` of ``total`` (which may have grown) is done."""
        self.total = self.total if total is None else total
        now = time.monotonic()
        ended = self._drawn and not self._tty and 0 < self.total <= done
        pause = REDRAW_SECONDS if self._tty else PLAIN_SECONDS
        if not ended and (now - self._start < QUIET_SECONDS or now - self._shown < pause):
            return
        self._shown = now
        self._write(done, now - self._start)

    def close(self) -> None:
        """Take the line away, if one was begun."""
        if self._drawn and self._tty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._drawn = False

    def _write(self, done: int, seconds: float) -> None:
        share = min(done / self.total, 1.0) if self.total > 0 else 0.0
        rate = (done - self._begin) / seconds if seconds > 0 else 0.0
        parts = [f"{self._amount(done)} of {self._amount(self.total)}" if self.total > 0 else self._amount(done)]
        if rate > 0:
            parts.append(f"{self._amount(rate)}/s")
            if done < self.total:
                parts.append(f"{clock((self.total - done) / rate)} left")
        figures = ", ".join(parts)
        percent = f" {int(100 * share):>3}%" if self.total > 0 else ""
        if self._tty:
            sys.stderr.write("\r\x1b[K" + self._line(share, f"{percent} {figures}"))
        else:
            sys.stderr.write(f"{self.label}:{percent} {figures}\n")
        sys.stderr.flush()
        self._drawn = True

    def _line(self, share: float, text: str) -> str:
        """Label, bar and figures in the terminal's width: a line that wraps could not be rewritten."""
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        except (OSError, ValueError):
            columns = 80
        full, empty = ("█", "░") if (sys.stderr.encoding or "").lower().startswith("utf") else ("#", "-")
        width = min(BAR, columns - 3 - len(self.label) - len(text))
        filled = round(width * share)
        bar = f" {full * filled}{empty * (width - filled)}" if width >= 8 and self.total > 0 else ""
        return f"{self.label}{bar}{text}"[: max(1, columns - 1)]

    def _amount(self, count: float) -> str:
        if self.unit != "B":
            return f"{count:.0f}{' ' + self.unit if self.unit else ''}"
        for unit in ("B", "kB", "MB"):
            if count < 999.5:
                return f"{count:.3g} {unit}"
            count /= 1000
        return f"{count:.4g} GB" if count >= 1000 else f"{count:.3g} GB"


def clock(seconds: float) -> str:
    """``9 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
