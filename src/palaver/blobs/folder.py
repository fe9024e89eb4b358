"""Objects in a folder that survive a power cut, and a folder that shrinks again.

`obstore` writes and renames files but never calls fsync (its LocalStore, seen with strace in 0.12), and it publishes a name
before the bytes are on the disk. So what must last is done here: write aside, fsync the bytes, rename, fsync the folders.
Listing is left to obstore.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from obstore.store import LocalStore, ObjectStore

# No key's path starts with a dot, so nothing here can be taken for an object.
INCOMING = ".incoming"
_ABANDONED_AFTER = 3_600.0
_ATTEMPTS = 20
_CLOCK_TICK_NS = 2_000_000_000
_REMEMBERED = 20_000


class Folder:
    """A folder of objects by path. Every method blocks; call them in a thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._store: LocalStore | None = None
        self._settled: dict[Path, int] = {}
        # Made by the first put: who only reads, or has no blobs, needs no folder. One that vanishes later is not made again,
        # since a volume that is not mounted must not be mistaken for a new one.
        self._is_there = root.is_dir()
        self._drop_abandoned()

    @property
    def store(self) -> ObjectStore:
        """The folder for reading; one that is not there is empty."""
        from obstore.store import LocalStore, MemoryStore

        if self._store is None:
            if not self.root.is_dir():
                return MemoryStore()
            self._store = LocalStore(self.root)
        return self._store

    def put(self, path: str, data: bytes) -> None:
        """Publish the object whole and durable; one that is there is replaced, so that damage heals and its age restarts."""
        aside = self.root / INCOMING / uuid4().hex
        target = self.root / path
        try:
            if not self._is_there:
                self._make_root()
            aside.parent.mkdir(mode=0o700, exist_ok=True)
            wrote_ns = _write(aside, data)
            _publish(aside, target)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                aside.unlink(missing_ok=True)
            raise
        self._fsync_upward(target, wrote_ns)

    def get(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        with open(self.root / path, "rb") as file:
            file.seek(start)
            return file.read() if length is None else file.read(length)

    def delete(self, paths: list[str]) -> None:
        """Remove objects and the folders this leaves empty; durable, because erasing is a promise too."""
        left: dict[Path, None] = {}
        for path in paths:
            file = self.root / path
            file.unlink(missing_ok=True)
            # Also for one that is gone: a crash may have come between its removal and the fsync.
            left[self._prune(file.parent)] = None
        for folder in left:
            with suppress(FileNotFoundError):  # another delete removed it, and fsyncs above it
                _fsync(folder)

    def _fsync_upward(self, target: Path, wrote_ns: int) -> None:
        """Make every name on the way to the object last: another writer may have made a folder and not come to its fsync.

        An fsync costs a flush of the disk even with nothing to write. A folder whose change time is that of our last fsync
        is left out; a change time is remembered only when it is older than the clock's tick, so that no later change shares it.
        """
        for folder in target.parents:
            with suppress(FileNotFoundError):  # deleted since, together with the object
                changed_ns = folder.stat().st_ctime_ns
                if self._settled.get(folder) != changed_ns:
                    _fsync(folder)
                    if wrote_ns - changed_ns > _CLOCK_TICK_NS:
                        if len(self._settled) >= _REMEMBERED:
                            self._settled.clear()
                        self._settled[folder] = changed_ns
            if folder == self.root:
                return

    def _prune(self, folder: Path) -> Path:
        """Remove empty folders upward; return the first that stays. A folder with anything in it cannot be removed."""
        while folder != self.root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass  # another delete was faster
            except OSError:
                break
            folder = folder.parent
        return folder

    def _make_root(self) -> None:
        missing = [self.root, *(parent for parent in self.root.parents if not parent.exists())]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            _fsync(folder.parent)
        self._is_there = True

    def _drop_abandoned(self) -> None:
        """Remove what writers that died left behind; what is younger may be another process at work."""
        before = time.time() - _ABANDONED_AFTER
        with suppress(FileNotFoundError, PermissionError), os.scandir(self.root / INCOMING) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < before:
                        os.unlink(entry.path)


def _write(file: Path, data: bytes) -> int:
    """Write a new file and fsync it; return its change time, by the clock of the file system."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
        return os.fstat(handle).st_ctime_ns
    finally:
        os.close(handle)


def _publish(aside: Path, target: Path) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            os.replace(aside, target)
            return
        except FileNotFoundError:
            # The folder was never made, or a delete pruned it after it was. Our own file gone is an error.
            if attempt == _ATTEMPTS - 1 or not aside.exists():
                raise
        _make_folders(target.parent)


def _make_folders(folder: Path) -> None:
    with suppress(FileNotFoundError):  # pruned in between; the caller tries again
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
