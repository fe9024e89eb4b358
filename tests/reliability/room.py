"""A disk without room, in this process: the n-th write of SQLite or of the folder of objects finds none, and maybe all after it.

SQLite lets its system calls be replaced, so that each write of file, log and index of the log can be made to fail in turn.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import apsw

from palaver.blobs import folder

_PWRITE = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True)
_CALL = "pwrite64"


class Room:
    """What is left on the disk: writes are counted; the one numbered `full_at` fails, and with `stays` every later one too."""

    def __init__(self) -> None:
        self.writes = self.failed = 0
        self.full_at, self.stays = 0, False

    def fill(self, at: int, *, stays: bool) -> None:
        self.writes = self.failed = 0
        self.full_at, self.stays = at, stays

    def make(self) -> None:
        """Have room again."""
        self.full_at = 0

    def is_left(self) -> bool:
        self.writes += 1
        if not self.full_at or self.writes < self.full_at or (self.writes > self.full_at and not self.stays):
            return True
        self.failed += 1
        return False


class _Calls:
    """The module `os` as the folder of objects sees it."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _ask(self) -> None:
        if not self._room.is_left():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, handle: int, data: Any) -> int:
        # A disk that is nearly full takes a part first.
        self._ask()
        return os.write(handle, data)

    def replace(self, source: Any, target: Any) -> None:
        self._ask()
        os.replace(source, target)

    def open(self, *given: Any) -> int:
        if given[1] & os.O_CREAT:
            self._ask()
        return os.open(*given)


@contextmanager
def room() -> Iterator[Room]:
    """Count and fail the writes of this process to SQLite files and to objects."""
    found = Room()
    system = apsw.VFS("palaver-room", base="")
    before = system.xGetSystemCall(_CALL)
    assert before is not None
    write = _PWRITE(before)

    def counted(handle: int, data: int, size: int, offset: int) -> int:
        if found.is_left():
            return int(write(handle, data, size, offset))
        ctypes.set_errno(errno.ENOSPC)
        return -1

    replaced = _PWRITE(counted)
    address = ctypes.cast(replaced, ctypes.c_void_p).value
    assert address is not None
    assert system.xSetSystemCall(_CALL, address)
    try:
        with patch.object(folder, "os", _Calls(found)):
            yield found
    finally:
        system.xSetSystemCall(_CALL, before)
        system.unregister()
