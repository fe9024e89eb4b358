"""What is said to people goes to stderr, so that stdout is data only."""

from __future__ import annotations

import os
import sys


def talk(text: str) -> None:
    """Write to stderr. Where nobody hears it, what is being done goes on all the same."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        # The interpreter would fail at its end with what could not be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
