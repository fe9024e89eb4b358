"""How a SQLite file is opened and paced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """How a file is opened and paced.

    `synchronous="normal"` may lose the last commits in a power cut, never the file. `wait_s` is how long a call without a
    deadline waits for room in a full queue; `newest` is the highest `user_version` this program understands.
    """

    synchronous: Literal["full", "normal"] = "full"
    create: bool = True
    read_only: bool = False
    newest: int | None = None
    busy_timeout_s: float = 5.0
    wait_s: float = 10.0
    queue_batches: int = 10_000
    queue_bytes: int = 64 * 1024 * 1024
    group_batches: int = 256
    group_bytes: int = 4_000_000
    group_ms: float = 5.0
    pool: int = 2
    page_size: int = 4096
    cache_bytes: int = 32 * 1024 * 1024
    mmap_bytes: int = 0
    checkpoint_pages: int = 3_000
