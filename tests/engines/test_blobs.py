"""Blobs in memory and in a folder; for the folder also power cuts, kill -9, a full disk and missing permissions."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from palaver.blob_ports import BlobStore
from palaver.blobs.folder import INCOMING
from palaver.blobs.local import Memory
from palaver.blobs.objects import ObjectBlobs
from palaver.blobs.paths import path_of
from palaver.errors import ConfigError, NotFound, StorageFull, Unavailable
from palaver.testing.blobs import BlobBackdoor, BlobStoreTests, addressed, keys_of

KEY = addressed("t/u/2026/01/02/c/context.json", b"whole")


class MemoryBackdoor:
    def __init__(self, blobs: ObjectBlobs) -> None:
        assert isinstance(blobs._place, Memory)
        self.objects = blobs._place.objects

    async def read(self, key: str) -> bytes | None:
        data, _ = self.objects.get(path_of(key), (None, 0))
        return data

    async def write(self, key: str, data: bytes) -> None:
        self.objects[path_of(key)] = data, 0

    async def count(self) -> int:
        return len(self.objects)


class FolderBackdoor:
    def __init__(self, root: Path) -> None:
        self.root = root

    async def read(self, key: str) -> bytes | None:
        file = self.root / path_of(key)
        return file.read_bytes() if file.exists() else None

    async def write(self, key: str, data: bytes) -> None:
        file = self.root / path_of(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    async def count(self) -> int:
        return len(files_in(self.root)) if self.root.exists() else 0


def files_in(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if not path.is_dir()]


class TestMemory(BlobStoreTests):
    @pytest.fixture
    async def blobs(self) -> AsyncIterator[BlobStore]:
        blobs = ObjectBlobs("memory:")
        yield blobs
        await blobs.aclose()

    @pytest.fixture
    async def backdoor(self, blobs: BlobStore) -> BlobBackdoor:
        assert isinstance(blobs, ObjectBlobs)
        return MemoryBackdoor(blobs)


class TestFolder(BlobStoreTests):
    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        blobs = ObjectBlobs(f"file:{tmp_path}/made/blobs%20é")
        yield blobs
        await blobs.aclose()
        if not os.listdir(tmp_path):
            return
        assert ["made"] == os.listdir(tmp_path)
        assert ["blobs é"] == os.listdir(tmp_path / "made")
        assert [] == files_in(tmp_path / "made" / "blobs é" / INCOMING)

    @pytest.fixture
    async def backdoor(self, blobs: BlobStore, tmp_path: Path) -> BlobBackdoor:
        return FolderBackdoor(tmp_path / "made" / "blobs é")


@pytest.mark.parametrize("url", ["", "blobs", "file:", "file://host/blobs", "file:a?b", "nonsense://x", "memory:?x", "s3://"])
def test_a_url_nobody_knows_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError):
        ObjectBlobs(url)


def test_memory_and_a_folder_take_no_options(tmp_path: Path) -> None:
    for url in ("memory:", f"file:{tmp_path}"):
        with pytest.raises(ConfigError):
            ObjectBlobs(url, {"region": "x"})


# --- the folder ---------------------------------------------------------------------------------------------------------


async def test_a_key_with_a_hash_is_its_own_path(tmp_path: Path) -> None:
    await ObjectBlobs(f"file:{tmp_path}").put(KEY, b"whole")
    assert b"whole" == (tmp_path / KEY).read_bytes()


async def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    root = tmp_path / "a b%41#?é"
    await ObjectBlobs(root).put(KEY, b"whole")
    assert b"whole" == (root / KEY).read_bytes()
    assert [KEY] == await keys_of(ObjectBlobs(root).list())


async def test_a_folder_is_made_by_the_first_put_only(tmp_path: Path) -> None:
    blobs = ObjectBlobs(tmp_path / "made" / "later")
    assert [] == await keys_of(blobs.list())
    assert await blobs.head(KEY) is None
    with pytest.raises(NotFound):
        await blobs.get(KEY)
    await blobs.delete([KEY])
    assert [] == os.listdir(tmp_path)
    await blobs.put(KEY, b"whole")
    assert [KEY] == await keys_of(blobs.list())


async def test_a_folder_that_vanished_is_not_made_again(tmp_path: Path) -> None:
    blobs = ObjectBlobs(tmp_path / "volume")
    await blobs.put(KEY, b"whole")
    (tmp_path / "volume").rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable):
        await blobs.put(KEY, b"whole")
    assert ["elsewhere"] == os.listdir(tmp_path)


async def test_folders_left_empty_go_and_others_stay(tmp_path: Path) -> None:
    blobs = ObjectBlobs(f"file:{tmp_path}")
    await blobs.put(KEY, b"whole")
    await blobs.put("t/other", b"x")
    await blobs.delete([KEY])
    assert ["other=o"] == os.listdir(tmp_path / "t")
    await blobs.delete(["t/other"])
    assert [INCOMING] == os.listdir(tmp_path)


async def test_files_of_others_are_not_objects(tmp_path: Path) -> None:
    for name in ("README", ".DS_Store", "Upper=o", "a=", "=zz=o", "é=o", "t/x", "t/.hidden", "lost+found/a=o", "u=/v=o"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    blobs = ObjectBlobs(f"file:{tmp_path}")
    await blobs.put(KEY, b"whole")
    assert [KEY] == await keys_of(blobs.list())
    assert [KEY] == await keys_of(blobs.list("t/"))


async def test_what_dead_writers_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    await ObjectBlobs(tmp_path).put(KEY, b"whole")
    old, young = tmp_path / INCOMING / "old", tmp_path / INCOMING / "young"
    for file in (old, young):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 4_000,) * 2)
    blobs = ObjectBlobs(f"file:{tmp_path}")
    assert [young.name] == os.listdir(tmp_path / INCOMING)
    assert [KEY] == await keys_of(blobs.list())


# --- power cuts ---------------------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """What a disk is sure to hold: of each file the bytes, of each folder the names, as they were at its last fsync."""

    files: dict[int, bytes] = field(default_factory=dict)
    folders: dict[int, dict[str, tuple[int, bool]]] = field(default_factory=dict)

    def fsync(self, handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").resolve()
        number = os.fstat(handle).st_ino
        if path.is_dir():
            self.folders[number] = {entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(path)}
        else:
            self.files[number] = path.read_bytes()

    def after_the_cut(self, folder: Path, into: Path) -> None:
        """Build the tree of what is left: a name whose bytes never reached the disk is an empty file."""
        self._rebuild(folder.stat().st_ino, into)

    def _rebuild(self, folder: int, into: Path) -> None:
        into.mkdir()
        for name, (number, is_folder) in self.folders.get(folder, {}).items():
            if is_folder:
                self._rebuild(number, into / name)
            else:
                (into / name).write_bytes(self.files.get(number, b""))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk, fsync = Disk(), os.fsync

    def recorded(handle: int) -> None:
        fsync(handle)
        disk.fsync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    return disk


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to see what is fsynced")
async def test_an_acknowledged_object_survives_a_power_cut(tmp_path: Path, disk: Disk) -> None:
    root = tmp_path / "made" / "blobs"
    blobs = ObjectBlobs(f"file:{root}")
    chance = random.Random(7)
    kept: dict[str, bytes] = {}
    for number in range(60):
        data = b"%d" % number * chance.randrange(1, 2_000)
        key = addressed(f"t/u{number % 3}/2026/{number % 4}", data)
        await blobs.put(key, data)
        kept[key] = data
        if number % 5 == 4:
            gone = chance.sample(sorted(kept), 2)
            await blobs.delete(gone)
            for key in gone:
                del kept[key]
        cut = tmp_path / f"cut{number}"
        disk.after_the_cut(tmp_path, cut)
        left = ObjectBlobs(f"file:{cut}/made/blobs")
        assert sorted(kept) == await keys_of(left.list())
        assert all([data == await left.get(key) for key, data in kept.items()])
        shutil.rmtree(cut)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to see what is fsynced")
@pytest.mark.parametrize("forgotten", ["file", "folder"])
async def test_the_power_cut_finds_a_missing_fsync(tmp_path: Path, disk: Disk, forgotten: str) -> None:
    """The test above is worth something: without one kind of fsync it fails."""
    root = tmp_path / "blobs"
    await ObjectBlobs(f"file:{root}").put(KEY, b"whole")
    if forgotten == "file":
        disk.files.clear()
    else:
        disk.folders.popitem()
    disk.after_the_cut(tmp_path, tmp_path / "cut")
    assert [b"whole"] != [file.read_bytes() for file in files_in(tmp_path / "cut")]


async def test_folders_made_by_others_are_fsynced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have made a folder and not come to its fsync when this one answers."""
    synced: list[Path] = []
    fsync = os.fsync

    def recorded(handle: int) -> None:
        fsync(handle)
        synced.append(Path(f"/proc/self/fd/{handle}").resolve())

    blobs = ObjectBlobs(f"file:{tmp_path}")
    (tmp_path / KEY).parent.mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", recorded)
    await blobs.put(KEY, b"whole")
    assert {tmp_path, *((tmp_path / KEY).parents[number] for number in range(7))} <= set(synced)


async def test_a_failed_fsync_is_an_error_and_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = ObjectBlobs(f"file:{tmp_path}")

    def fails(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(Unavailable):
        await blobs.put(KEY, b"whole")
    assert [] == files_in(tmp_path)


# --- processes that die, disks that fill --------------------------------------------------------------------------------

WRITER = """
    import asyncio, os, sys
    from palaver.blobs import folder
    from palaver.blobs.objects import ObjectBlobs
    from palaver.testing.blobs import addressed

    async def main() -> None:
        blobs = ObjectBlobs("file:" + sys.argv[1])
        for number in range(10_000):
            data = b"%d." % number * 60_000
            key = addressed(f"t/u/{number}", data)
            await blobs.put(key, data)
            print(key, flush=True)

    asyncio.run(main())
"""


def run_python(source: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(source), *arguments], stdout=subprocess.PIPE, text=True)


async def test_a_writer_killed_in_the_middle_leaves_no_half_object(tmp_path: Path) -> None:
    for attempt in range(4):
        with run_python(WRITER, str(tmp_path)) as child:
            assert child.stdout is not None
            first = await asyncio.to_thread(child.stdout.readline)
            await asyncio.sleep(0.003 + attempt * 0.021)
            child.send_signal(signal.SIGKILL)
            acknowledged = (first + await asyncio.to_thread(child.stdout.read)).split("\n")[:-1]
        assert acknowledged
        blobs = ObjectBlobs(f"file:{tmp_path}")
        found = await keys_of(blobs.list())
        assert set(acknowledged) <= set(found)
        for key in found:  # get() compares the bytes with the hash in the key
            assert await blobs.get(key)
        await blobs.aclose()


FULL = """
    import asyncio, resource, sys
    from palaver.blobs.objects import ObjectBlobs
    from palaver.errors import StorageFull

    async def main() -> None:
        blobs = ObjectBlobs("file:" + sys.argv[1])
        await blobs.put("small", b"x")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            await blobs.put("large", b"x" * 200_000)
        except StorageFull as error:
            print(error.code)
        assert await blobs.get("small") == b"x"
        await blobs.put("another", b"x")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await blobs.put("large", b"x" * 200_000)
        print(",".join([info.key async for info in blobs.list()]))

    asyncio.run(main())
"""


def test_a_full_disk_is_storage_full_and_writing_goes_on_when_there_is_room(tmp_path: Path) -> None:
    out, _ = run_python(FULL, str(tmp_path)).communicate()
    assert ["storage_full", "another,large,small"] == out.split()
    assert 3 == len(files_in(tmp_path))


async def test_errors_of_a_full_disk_are_known_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = ObjectBlobs(f"file:{tmp_path}")

    def fails(handle: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fails)
        with pytest.raises(StorageFull):
            await blobs.put(KEY, b"whole")
    assert [] == files_in(tmp_path)
    await blobs.put(KEY, b"whole")


READ_ONLY = """
    import asyncio, os, sys
    from palaver.blobs.objects import ObjectBlobs
    from palaver.errors import ReadOnly, Unavailable

    async def main() -> None:
        blobs = ObjectBlobs("file:" + sys.argv[1])
        print((await blobs.get("readable")).decode())
        for attempt in (blobs.put("t/new", b"x"), blobs.delete(["readable"])):
            try:
                await attempt
            except ReadOnly as error:
                print(error.code)
        try:
            await blobs.get("hidden")
        except Unavailable as error:
            print(error.code)
        try:
            await ObjectBlobs("file:" + sys.argv[1] + "/missing/folder").put("x", b"x")
        except ReadOnly as error:
            print(error.code)

    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    asyncio.run(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
async def test_a_folder_without_permission_is_read_only(tmp_path: Path) -> None:
    root = tmp_path / "blobs"
    blobs = ObjectBlobs(f"file:{root}")
    await blobs.put("readable", b"text")
    await blobs.put("hidden", b"text")
    (root / path_of("readable")).chmod(0o444)
    (root / path_of("hidden")).chmod(0)
    for folder in (root / INCOMING, root):
        folder.chmod(0o555)
    for folder in root.parents[:-2]:
        folder.chmod(folder.stat().st_mode | 0o055)
    out, _ = await asyncio.to_thread(run_python(READ_ONLY, str(root)).communicate)
    root.chmod(0o755)
    assert ["text", "read_only", "read_only", "unavailable", "read_only"] == out.split()
