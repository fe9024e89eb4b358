"""`palaver doctor` on a SQLite file: each of its findings is made to happen."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from palaver.cli import doctor_file
from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver, Ran


def check(ran: Ran, name: str) -> Any:
    return next(each for each in ran.json["checks"] if each["check"] == name)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    ("free", "level", "said"),
    [(1, "fail", "Make room"), (500 << 20, "warn", "backup"), (1 << 40, "ok", "")],
    ids=["none", "little", "much"],
)
def test_a_disk_without_room_is_told(
    palaver: Palaver, demo: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str, said: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 41, 0, free))
    found = check(palaver("doctor", "--quick"), "disk")
    assert (level, True) == (found["level"], said in found["fix"])


UNPRIVILEGED = """
    import os, sys
    from pathlib import Path
    import palaver.config
    from palaver.cli.doctor_file import on_disk

    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for finding in on_disk(Path(sys.argv[1])):
        if finding.check == "permissions":
            print(finding.level, finding.seen)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_what_the_process_may_not_write_is_told(tmp_path: Path, demo: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    shutil.copy(demo, folder / "a.db")
    (folder / "a.db.blobs").mkdir()
    for path, mode in ((folder / "a.db", 0o444), (folder / "a.db.blobs", 0o555), (folder, 0o555)):
        path.chmod(mode)
    for above in folder.parents[:-2]:
        above.chmod(above.stat().st_mode | 0o055)
    command = [sys.executable, "-c", textwrap.dedent(UNPRIVILEGED), str(folder / "a.db")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    folder.chmod(0o755)
    whats = ("the file", "its folder", "the folder of its objects")
    assert [f"warn {what} cannot be written by this process" for what in whats] == out.splitlines()


def test_a_log_that_does_not_empty_itself_is_told(palaver: Palaver, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_file, "LOG", 1)
    writer = sqlite3.connect(demo)
    try:
        writer.execute("CREATE TABLE theirs (a)")
        writer.commit()
        found = check(palaver("doctor", "--quick"), "log")
    finally:
        writer.close()
    assert ("warn", True) == (found["level"], "readers" in found["fix"])


def test_a_clock_that_went_back_is_told(palaver: Palaver, demo: Path) -> None:
    with sqlite3.connect(demo) as database:
        database.execute("UPDATE palaver_changes SET revision = revision + 3600 * 1000000 * 24 * 365 * 20")
    database.close()
    found = check(palaver("doctor", "--quick"), "clock")
    assert ("warn", True) == (found["level"], "NTP" in found["fix"])


def test_a_file_that_is_not_there_and_a_folder_are_told(palaver: Palaver, tmp_path: Path) -> None:
    for url, said in (("nothing.db", "does not exist"), (str(tmp_path), "is a folder")):
        ran = palaver("doctor", "-u", url)
        assert (Exit.USAGE, True) == (ran.code, said in check(ran, "file")["seen"])
