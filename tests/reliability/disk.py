"""A disk that loses its power: what it may hold at any moment of a recorded run.

A log of strace tells every write and every fsync of the store, in order. What an fsync covered lasts. Of what came since,
any part may have reached the disk: each write, truncation and name by itself, and one write cut at a sector. Killing a
process cannot show this, because the page cache outlives it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

SECTOR = 512
TRACED = "openat,pwrite64,write,fsync,fdatasync,ftruncate,unlink,link,linkat,rename,mkdir,rmdir"
OPTIONS = ("-y", "-xx", "-s", "1000000", "-e", f"trace={TRACED}")
_LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(\(| resumed>)(.*)$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_MODE = re.compile(r"O_CREAT\S*, (0[0-7]+)")
_HANDLE = re.compile(r"^\d+<((?:\\x[0-9a-f]{2})*)(?:>| )")


class Event(NamedTuple):
    """The beginning or the end of a call; `args` as strace wrote them."""

    number: int
    call: str
    ends: bool
    args: str
    result: int


@dataclass
class File:
    """The bytes that are safe, and what was done since the last fsync: (event, offset, data), or a size in place of data."""

    safe: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    mode: int = 0o644


@dataclass
class Folder:
    """The names that are safe, those there are, and the changes since the last fsync: (event, name, what or nothing)."""

    safe: dict[str, Node] = field(default_factory=dict)
    now: dict[str, Node] = field(default_factory=dict)
    since: list[tuple[int, str, Node | None]] = field(default_factory=list)


Node: TypeAlias = "File | Folder"


def decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def events(log: Path) -> Iterator[Event]:
    """Yield the calls of a log: one that another thread interrupted has its beginning and its end at their own places."""
    waiting: dict[str, str] = {}
    number = 0
    for line in log.read_text().splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread, call, opened, rest = match.groups()
        if opened == "(":
            number += 1
            waiting[thread] = rest
            yield Event(number, call, False, rest, 0)
        if not rest.endswith("<unfinished ...>"):
            number += 1
            result = re.search(r"\) += (-?\d+)", rest)
            yield Event(number, call, True, waiting.pop(thread, ""), int(result[1]) if result else -1)


class Disk:
    """Follows a log below one folder; `cut` shows what a power cut after the events seen so far may leave."""

    def __init__(self, root: Path, said: Path) -> None:
        self._prefix, self._said = str(root), str(said)
        self.root = Folder()
        self.heard: list[Any] = []
        self._syncing: dict[str, int] = {}

    def see(self, event: Event) -> None:
        """Take an event in: writes count from their beginning, an fsync and a change of names at its end."""
        match event.call:
            case "pwrite64" | "write" if not event.ends:
                self._write(event)
            case "fsync" | "fdatasync":
                self._sync(event)
            case "ftruncate" if not event.ends:
                if isinstance(file := self._handle(event.args), File):
                    file.since.append((event.number, int(event.args.rsplit(",", 1)[1].split(")")[0]), None))
            case "openat" | "mkdir" | "unlink" | "rmdir" | "rename" | "link" | "linkat" if event.ends and event.result >= 0:
                self._name(event)

    def _write(self, event: Event) -> None:
        text = _TEXT.search(event.args)
        data = decoded(text[1]) if text else b""
        if self._path(event.args) == self._said:
            self.heard += [json.loads(line) for line in data.splitlines()]
        elif isinstance(file := self._handle(event.args), File):
            if event.call == "pwrite64":
                offset = int(event.args.rsplit(", ", 1)[1].split(")")[0].split(" ")[0])
            else:
                # Objects are written from their beginning to their end, by nobody else.
                offset = max([len(file.safe), *(at + len(what) for _, at, what in file.since if what is not None)])
            file.since.append((event.number, offset, data))

    def _sync(self, event: Event) -> None:
        path = self._path(event.args) or ""
        if not event.ends:
            self._syncing[path] = event.number
            return
        node, before = self._node(path), self._syncing.pop(path, event.number)
        if event.result < 0 or node is None:
            return
        if isinstance(node, File):
            for _, offset, data in [change for change in node.since if change[0] < before]:
                put(node.safe, offset, data)
            node.since = [change for change in node.since if change[0] >= before]
        else:
            for _, name, what in [change for change in node.since if change[0] < before]:
                rename(node.safe, name, what)
            node.since = [change for change in node.since if change[0] >= before]

    def _name(self, event: Event) -> None:
        paths = [decoded(text).decode() for text in _TEXT.findall(event.args)]
        if event.call == "openat" and ("O_CREAT" not in event.args or self._node(paths[0]) is not None):
            return
        mode = _MODE.search(event.args)
        made: dict[str, Node] = {"openat": File(mode=int(mode[1], 8) if mode else 0o644), "mkdir": Folder()}
        what = made.get(event.call)
        if event.call in ("unlink", "rmdir", "rename", "link", "linkat"):
            what = self._node(paths[0])
        if event.call in ("unlink", "rmdir", "rename"):
            self._change(event.number, paths[0], None)
        if event.call in ("openat", "mkdir", "rename", "link", "linkat"):
            self._change(event.number, paths[-1], what)

    def _change(self, number: int, path: str, what: Node | None) -> None:
        folder = self._node(path.rpartition("/")[0])
        if isinstance(folder, Folder):
            name = path.rpartition("/")[2]
            rename(folder.now, name, what)
            folder.since.append((number, name, what))

    def _path(self, args: str) -> str | None:
        match = _HANDLE.match(args)
        return decoded(match[1]).decode() if match else None

    def _handle(self, args: str) -> Node | None:
        path = self._path(args)
        return None if path is None else self._node(path)

    def _node(self, path: str) -> Node | None:
        """Return what is at a path now; None for one outside of the folder."""
        if not (path + "/").startswith(self._prefix + "/"):
            return None
        node: Node | None = self.root
        for name in path[len(self._prefix) + 1 :].split("/"):
            if name:
                node = node.now.get(name) if isinstance(node, Folder) else None
        return node

    # --- cutting ----------------------------------------------------------------------------------------------------

    def cut(self, chance: random.Random, into: Path) -> None:
        """Write one of the trees that may be left."""
        self._left(self.root, chance, into)

    def _left(self, folder: Folder, chance: random.Random, into: Path) -> None:
        into.mkdir()
        names = dict(folder.safe)
        for _, name, what in folder.since:
            if chance.random() < 0.5:
                rename(names, name, what)
        for name, node in names.items():
            if isinstance(node, Folder):
                self._left(node, chance, into / name)
            # The index of the log is not kept over a restart by anybody.
            elif not name.endswith("-shm"):
                (into / name).write_bytes(remains(node, chance))
                (into / name).chmod(node.mode)


def remains(file: File, chance: random.Random) -> bytes:
    """Return bytes the file may have: none, some or all of what was done since its last fsync, one write torn."""
    left = bytearray(file.safe)
    share = chance.choice((0.0, 0.5, 0.9, 1.0))
    # A disk that keeps the order of what it is given is a case of its own: it leaves the longest way to go back.
    until = chance.randrange(len(file.since) + 1) if chance.random() < 0.5 else len(file.since)
    ordered = until < len(file.since)
    applied = [change for change in file.since[:until] if ordered or chance.random() < share]
    for number, (_, offset, data) in enumerate(applied):
        if data is not None and number == len(applied) - 1:
            # Sectors are written whole; which of them were is for the disk to say, so any first part may be.
            first = (SECTOR - offset % SECTOR) % SECTOR
            data = data[: first + SECTOR * chance.randrange(len(data) // SECTOR + 2)]
        put(left, offset, data)
    return bytes(left)


def put(into: bytearray, offset: int, data: bytes | None) -> None:
    """Write data at an offset, or without data cut or extend to this size."""
    end = offset if data is None else offset + len(data)
    if len(into) < end:
        into.extend(bytes(end - len(into)))
    if data is None:
        del into[end:]
    else:
        into[offset:end] = data


def rename(names: dict[str, Node], name: str, what: Node | None) -> None:
    if what is None:
        names.pop(name, None)
    else:
        names[name] = what
