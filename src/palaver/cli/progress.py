"""How far something is, told on stderr."""

from __future__ import annotations

import sys
import time

from palaver.cli.talking import talk


class Progress:
    """How far something is, on stderr: a line that rewrites itself on a terminal, one line every ten seconds elsewhere.

    Nothing is shown for what takes less than half a second.
    """

    FIRST_S, TERMINAL_S, ELSEWHERE_S = 0.5, 0.1, 10.0

    def __init__(self, what: str, total: int | None = None, *, quiet: bool = False) -> None:
        self._what, self._total, self._quiet = what, total, quiet
        self._terminal = sys.stderr.isatty()
        self._started = self._last = time.monotonic()
        self._done, self._drawn = 0, False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._drawn and self._terminal:
            talk("\r\x1b[K")

    def advance(self, n: int = 1) -> None:
        self._done += n
        now = time.monotonic()
        wait = self.TERMINAL_S if self._terminal else self.ELSEWHERE_S
        if self._quiet or now - self._started < self.FIRST_S or now - self._last < wait:
            return
        self._last, self._drawn = now, True
        talk(f"\r{self._line(now)}\x1b[K" if self._terminal else f"{self._line(now)}\n")

    def __str__(self) -> str:
        return self._line(time.monotonic())

    def _line(self, now: float) -> str:
        rate = self._done / max(now - self._started, 0.001)
        if not self._total:
            return f"{self._what}: {self._done:,} ({rate:,.0f}/s)"
        left = (self._total - self._done) / rate if rate else 0
        return f"{self._what}: {self._done:,} of {self._total:,} ({self._done / self._total:.0%}, {rate:,.0f}/s, {left:,.0f} s left)"
