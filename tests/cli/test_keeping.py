"""export, purge, schema, doctor, health, sweep, work and version."""

from __future__ import annotations

import csv
import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from palaver.cli.exits import Exit
from tests.cli.conftest import Palaver

pytestmark = pytest.mark.usefixtures("demo")
ANA = "201000000000000000"


def test_an_export_holds_everything_and_says_so(palaver: Palaver, elsewhere: Path) -> None:
    ran = palaver("export", "-o", "out")

    manifest = json.loads((elsewhere / "out" / "manifest.json").read_text())
    assert ran.json["files"] == manifest["files"]
    for row in manifest["files"]:
        data = (elsewhere / "out" / row["file"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["records"] == row["counted"] == data.count(b"\n")
    messages = next(row for row in manifest["files"] if row["entity"] == "Message")
    assert f"{messages['records']:,} Message records" in ran.err


def test_one_entity_is_exported_to_stdout(palaver: Palaver) -> None:
    lines = palaver("export", "Feedback").lines

    assert lines
    assert {"positive", "negative"} >= {line["rating"] for line in lines}


def test_a_csv_export_can_be_read_back(palaver: Palaver, elsewhere: Path) -> None:
    ran = palaver("export", "Message", "Feedback", "--format", "csv", "-o", "out")

    with (elsewhere / "out" / "Message.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert next(row["records"] for row in ran.json["files"] if row["entity"] == "Message") == len(rows)
    assert all(row["content"] for row in rows)


def test_personal_fields_can_be_left_out_of_an_export(palaver: Palaver) -> None:
    assert not any("content" in line for line in palaver("export", "Message", "--without-personal").lines)


def test_an_export_never_writes_into_a_folder_with_something_in_it(palaver: Palaver, elsewhere: Path) -> None:
    (elsewhere / "out").mkdir()
    (elsewhere / "out" / "mine").write_text("mine")

    assert Exit.CONFLICT == palaver("export", "-o", "out").code
    assert ["mine"] == [file.name for file in (elsewhere / "out").iterdir()]


def test_several_entities_need_a_folder(palaver: Palaver) -> None:
    assert Exit.USAGE == palaver("export").code


def test_a_purge_is_counted_confirmed_and_complete(palaver: Palaver, elsewhere: Path) -> None:
    counted = palaver("purge", ANA, "--dry-run").json
    refused = palaver("purge", ANA)
    still = palaver("purge", ANA, "--dry-run").json
    done = palaver("purge", ANA, "--yes", "--receipt", "receipt.json").json
    again = palaver("purge", ANA, "--yes")

    assert counted["total"] > 0
    assert (Exit.USAGE, "not_confirmed") == (refused.code, refused.problem["code"])
    assert counted == still
    assert counted["deleted"] == done["deleted"]
    assert done["total"] == json.loads((elsewhere / "receipt.json").read_text())["total"]
    assert Exit.NOT_FOUND == again.code
    assert [] == palaver("query", "Conversation", ANA).json["data"]
    assert 0 == palaver("search", "--where", f"user_id={ANA}").json["total"]


def test_people_long_inactive_are_purged_together(palaver: Palaver) -> None:
    nobody = palaver("purge", "--inactive-since", "90d", "--dry-run").json
    everybody = palaver("purge", "--inactive-since", "0s", "--dry-run").json

    assert (0, 0) == (nobody["people"], nobody["total"])
    assert everybody["people"] > 5


def test_a_purge_takes_one_person_or_a_moment(palaver: Palaver) -> None:
    assert Exit.USAGE == palaver("purge").code
    assert Exit.USAGE == palaver("purge", ANA, "--inactive-since", "1d").code


def test_the_schema_is_shown_with_its_paths(palaver: Palaver) -> None:
    found = palaver("schema", "show", "Message").json

    assert ["Message"] == [entity["entity"] for entity in found["entities"]]
    assert {"key", "by_user", "by_intent"} <= {path["name"] for path in found["entities"][0]["paths"]}
    assert "by_intent(intent.name), in order of timestamp, 8 shards" in palaver("schema", "show", "--human").out


def test_a_database_that_fits_its_schema_passes_the_check(palaver: Palaver) -> None:
    ran = palaver("schema", "check")

    assert (Exit.OK, []) == (ran.code, ran.json["missing"])


def test_a_database_that_lacks_an_index_has_drifted(palaver: Palaver, demo: Path) -> None:
    with sqlite3.connect(demo) as database:
        (name,) = database.execute("SELECT name FROM sqlite_schema WHERE name LIKE '%IntentIndex'").fetchone()
        database.execute(f'DROP INDEX "{name}"')
    database.close()

    ran = palaver("schema", "check")

    assert (Exit.DRIFT, ["index IntentIndex of baller-messages"]) == (ran.code, ran.json["missing"])
    assert Exit.DRIFT == palaver("query", "Message", "result", "--by", "by_intent").code
    assert Exit.FAILURE == palaver("doctor").code
    assert (Exit.DRIFT, ["index IntentIndex of baller-messages"]) == (
        palaver("migrate", "plan").code,
        palaver("migrate", "plan").json["steps"],
    )
    assert ["index IntentIndex of baller-messages"] == palaver("migrate", "apply").json["steps"]
    assert [] == palaver("migrate", "apply").json["steps"]
    assert Exit.OK == palaver("query", "Message", "result", "--by", "by_intent").code


def test_a_sound_database_passes_the_doctor(palaver: Palaver) -> None:
    ran = palaver("doctor")

    assert (0, "ok") == (ran.code, ran.json["status"])
    checks = {check["check"] for check in ran.json["checks"]}
    assert {"versions", "file", "disk", "integrity", "schema", "projection", "clock", "objects"} <= checks
    assert "✓ integrity" in palaver("doctor", "--human").out
    assert "integrity" not in palaver("doctor", "--quick", "--human").out


def test_the_doctor_finds_damage(palaver: Palaver, demo: Path) -> None:
    data = bytearray(demo.read_bytes())
    for page in range(20, 60):
        data[page * 4096 : page * 4096 + 512] = b"\xff" * 512
    demo.write_bytes(data)

    ran = palaver("doctor")

    assert 2 == ran.code
    assert [] != [check for check in ran.json["checks"] if check["level"] == "fail" and check["fix"]]


def test_health_names_every_projection(palaver: Palaver) -> None:
    found = palaver("health").json

    assert 0 == found["projections"]["search"]["lag"]
    assert "search" in palaver("health", "--human").out


def test_a_sweep_reports_what_it_removed(palaver: Palaver) -> None:
    assert 0 == palaver("sweep").json["total"]
    assert "0 objects removed" in palaver("sweep", "--human").out


def test_work_once_catches_up_and_ends(palaver: Palaver) -> None:
    ran = palaver("work", "--once")

    assert (0, True) == (ran.code, ran.json["caught_up"])


def test_versions_are_printed(palaver: Palaver) -> None:
    from palaver import __version__

    assert __version__ == palaver("version").json["versions"]["palaver"]
    assert __version__ == palaver("--version").out.strip()
