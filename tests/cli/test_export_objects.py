"""Exports of records with large objects: their bytes beside them where that is asked, and said where they are where it is not."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from palaver import LargeObject, open_sync
from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver

SOURCE = """
from typing import Annotated

from palaver import Blob, Entity, Key, LargeObject, Personal, Schema, Subject


class Recording(Entity, table="recordings"):
    id: Annotated[str, Subject()]
    audio: Annotated[LargeObject | None, Blob("recordings/{id}")] = None
    voice: Annotated[LargeObject | None, Personal(), Blob("voices/{id}")] = None
    key = Key("id")


SCHEMA = Schema("mine", [Recording])
"""
AUDIO, VOICE = b"0123456789" * 1_000_000, b"voice"
DATABASE = ("-u", "mine.db", "--schema", "recorded:SCHEMA")


@pytest.fixture(autouse=True)
def recorded(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(elsewhere))
    (elsewhere / "recorded.py").write_text(SOURCE, encoding="utf-8")
    import recorded  # type: ignore[import-not-found]

    with open_sync("mine.db", schema=recorded.SCHEMA) as store, LargeObject.staged([AUDIO]) as audio, LargeObject.staged([VOICE]) as voice:
        store.create(recorded.Recording(id="1", audio=audio, voice=voice))
        store.create(recorded.Recording(id="2", audio=audio))
        store.create(recorded.Recording(id="3"))


def records(folder: Path) -> list[dict[str, object]]:
    return sorted(map(json.loads, (folder / "Recording.jsonl").read_text().splitlines()), key=lambda record: record["id"])


def test_objects_are_written_beside_the_records_that_name_them(palaver: Palaver, elsewhere: Path) -> None:
    told = palaver("export", "-o", "out", "--objects", *DATABASE).json
    first, second, third = records(elsewhere / "out")
    named = {"$object": f"objects/{sha256(AUDIO).hexdigest()}", "bytes": len(AUDIO)}
    assert (named, named, None) == (first["audio"], second["audio"], third["audio"])
    assert AUDIO == (elsewhere / "out" / str(named["$object"])).read_bytes()
    assert {sha256(data).hexdigest() for data in (AUDIO, VOICE)} == {path.name for path in (elsewhere / "out" / "objects").iterdir()}
    assert (3, 2 * len(AUDIO) + len(VOICE)) == (told["files"][0]["objects"], told["files"][0]["object_bytes"])


def test_without_them_it_is_said_where_they_are(palaver: Palaver, elsewhere: Path) -> None:
    ran = palaver("export", "Recording", *DATABASE)
    assert "3 large objects (20,000,005 bytes) stay in the blob store" in ran.err
    assert "--objects" in ran.err
    assert Exit.USAGE == palaver("export", "Recording", "--objects", *DATABASE).code


def test_a_personal_object_is_left_out_like_its_field(palaver: Palaver, elsewhere: Path) -> None:
    palaver("export", "-o", "out", "--objects", "--without-personal", *DATABASE)
    assert "voice" not in records(elsewhere / "out")[0]
    assert [sha256(AUDIO).hexdigest()] == [path.name for path in (elsewhere / "out" / "objects").iterdir()]


def test_a_damaged_object_is_not_exported_as_whole(palaver: Palaver, elsewhere: Path) -> None:
    for path in (elsewhere / "mine.db.blobs").rglob("*"):
        if path.is_file() and path.stat().st_size == len(AUDIO):
            path.write_bytes(AUDIO[:-1] + b"!")
    ran = palaver("export", "-o", "out", "--objects", *DATABASE)
    assert ran.code != Exit.OK
    assert not (elsewhere / "out" / "objects" / sha256(AUDIO).hexdigest()).exists()
    assert not (elsewhere / "out" / "manifest.json").exists()
