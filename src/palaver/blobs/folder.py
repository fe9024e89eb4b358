"""Objects in a folder that survive a power cut, and a folder that shrinks again.

Written aside, fsynced, renamed, and the folders fsynced: a name is never on the disk before its bytes.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from uuid import uuid4

# No key's path starts with a dot, so nothing here can be taken for an object.
INCOMING = ".incoming"
_ABANDONED_AFTER = 3_600.0
_ATTEMPTS = 20
_CLOCK_TICK_NS = 2_000_000_000
_REMEMBERED = 20_000


class Held(NamedTuple):
    """An object as its place knows it."""

    path: str
    size: int
    modified_us: int


class Folder:
    """A folder of objects by path. Every method blocks; call them in a thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._settled: dict[Path, int] = {}
        # Made by the first put: who only reads, or has no blobs, needs no folder. One that vanishes later is not made again,
        # since a volume that is not mounted must not be mistaken for a new one.
        self._is_there = root.is_dir()
        self._drop_abandoned()

    def put(self, path: str, data: bytes) -> None:
        """Publish the object whole and durable; one that is there is replaced, so that damage heals and its age restarts."""
        incoming = self.incoming()
        try:
            incoming.write(data)
            incoming.publish(path)
        finally:
            incoming.discard()

    def incoming(self) -> Incoming:
        """Begin an object that comes in pieces. Nothing is on the disk before its first one, so this does not block."""
        return Incoming(self, self.root / INCOMING / uuid4().hex)

    def open_aside(self, aside: Path) -> int:
        if not self._is_there:
            self._make_root()
        aside.parent.mkdir(mode=0o700, exist_ok=True)
        return os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def get(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        with open(self.root / path, "rb") as file:
            file.seek(start)
            return file.read() if length is None else file.read(length)

    def head(self, path: str) -> Held:
        status = os.stat(self.root / path)
        return Held(path, status.st_size, status.st_mtime_ns // 1_000)

    def level(self, folder: str) -> tuple[list[str], list[Held]]:
        """Return the folders and the objects right in a folder; one that is not there is empty."""
        folders: list[str] = []
        objects: list[Held] = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if not path.isascii():
                    continue  # no object's path, and maybe no text at all
                with suppress(FileNotFoundError):  # deleted since the folder was read
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                    elif entry.is_file():
                        status = entry.stat()
                        objects.append(Held(path, status.st_size, status.st_mtime_ns // 1_000))
        return folders, objects

    def below(self, folder: str) -> list[Held]:
        """Return all objects in a folder and in those below it."""
        found: list[Held] = []
        waiting = [folder]
        while waiting:
            folders, objects = self.level(waiting.pop())
            waiting += folders
            found += objects
        return found

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

    def fsync_upward(self, target: Path, wrote_ns: int) -> None:
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


class Incoming:
    """An object on its way in, written aside until it is whole. Whoever began it ends it with `discard`, published or not.

    Its calls may come from several threads: one that was cancelled may still be writing when `discard` is called.
    """

    def __init__(self, folder: Folder, aside: Path) -> None:
        self._folder, self._aside = folder, aside
        self._turn = Lock()
        self._handle: int | None = None
        self._ended = False

    def write(self, piece: bytes) -> None:
        with self._turn:
            handle = self._opened()
            left = memoryview(piece)
            while left:
                left = left[os.write(handle, left) :]

    def publish(self, path: str) -> None:
        """Make what was written the object of this path, durable when this returns."""
        with self._turn:
            handle = self._opened()
            wrote_ns = _fsynced(handle)
            self._handle = None
            os.close(handle)
            target = self._folder.root / path
            _publish(self._aside, target)
            self._ended = True
            self._folder.fsync_upward(target, wrote_ns)

    def discard(self) -> None:
        with self._turn:
            handle, self._handle = self._handle, None
            if handle is not None:
                with suppress(OSError):  # a network's file system tells here what it could not write
                    os.close(handle)
            if not self._ended:
                self._ended = True
                with suppress(OSError):  # an error before this one is the one to report
                    self._aside.unlink(missing_ok=True)

    def _opened(self) -> int:
        if self._ended:
            # It was discarded while this call waited for its turn; nobody waits for its answer.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if self._handle is None:
            self._handle = self._folder.open_aside(self._aside)
        return self._handle


def _fsynced(handle: int) -> int:
    """Fsync a file; return its change time, by the clock of the file system."""
    os.fsync(handle)
    return os.fstat(handle).st_ctime_ns


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
