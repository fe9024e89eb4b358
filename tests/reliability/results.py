"""Where the long runs leave their figures, for the reliability page to be written from."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

FILE = Path(__file__).parent / "results.json"


def machine() -> str:
    """Say in words what the figures were measured on, without naming the machine."""
    cores = os.cpu_count() or 1
    return (
        f"{platform.system()} on {platform.machine()} with {cores} core{'s' if cores > 1 else ''}, "
        f"{platform.python_implementation()} {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}"
    )


def publish(name: str, figures: Mapping[str, Any]) -> None:
    """Keep the figures of one proof, with the day and the machine they come from."""
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    kept[name] = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), **figures}
    FILE.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
