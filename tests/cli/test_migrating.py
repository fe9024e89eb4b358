"""`palaver migrate`: planned, reviewed, applied as reviewed, and told afterwards; nothing is lost that was not named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import palaver as library
from tests.cli.conftest import Palaver

MODULE = """
from typing import Annotated
from palaver import Backfill, Entity, Index, Key, RenamedFrom, Schema, Unique


def first():
    class Note(Entity, table="notes"):
        id: str
        body: str
        old: str = "o"
        key = Key("id")

    return Schema("notes", [Note], version=1)


def second():
    class Note(Entity, table="notes"):
        id: str
        text: Annotated[str, RenamedFrom("body")]
        owner: Annotated[str, Backfill("nobody")]
        key = Key("id")
        by_owner = Index("owner", sort="text")
        one = Unique("text")

    return Schema("notes", [Note], version=2)


V1, V2 = first(), second()
"""
NEW, OLD = ("--schema", "notes_app:V2", "-u", "notes.db"), ("--schema", "notes_app:V1", "-u", "notes.db")


@pytest.fixture
def notes(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with the first version's records, and a module with both versions."""
    (elsewhere / "notes_app.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(elsewhere))
    monkeypatch.delitem(sys.modules, "notes_app", raising=False)
    from importlib import import_module

    schema = import_module("notes_app").V1
    note = schema.entities["Note"].entity
    with library.open_sync("notes.db", schema=schema, maintain=False) as store:
        for n in range(3):
            store.create(note(id=str(n), body=f"text {n}"))
    yield elsewhere / "notes.db"
    monkeypatch.delitem(sys.modules, "notes_app", raising=False)


def test_a_plan_changes_nothing_and_says_that_there_is_something_to_do(palaver: Palaver, notes: Path) -> None:
    before = notes.read_bytes()
    ran = palaver(*NEW, "migrate", "plan", "--json")
    assert 7 == ran.code
    assert "column body of notes becomes text" in ran.json["steps"]
    assert ["Note.old"] == ran.json["kept"]
    assert (False, False, []) == (ran.json["applied"], ran.json["automatic"], ran.json["unmet"])
    assert before == notes.read_bytes()
    assert 0 == palaver(*OLD, "migrate", "plan").code


def test_a_reviewed_plan_is_applied_exactly_and_told_afterwards(palaver: Palaver, notes: Path) -> None:
    assert 7 == palaver(*NEW, "migrate", "plan", "-o", "plan.json").code
    planned = [each["words"] for each in json.loads(Path("plan.json").read_text())["actions"]]
    ran = palaver(*NEW, "migrate", "apply", "plan.json")
    assert (0, planned, True) == (ran.code, ran.json["steps"], ran.json["applied"])

    status = palaver(*NEW, "migrate", "status")
    assert 0 == status.code, status.out
    (applied,) = status.json["applied"]
    assert (1, 2, planned) == (applied["number"], applied["schema_version"], applied["steps"])
    assert status.json["fingerprint"] == applied["fingerprint"]
    assert ["Note.old"] == status.json["kept"]
    assert [] == status.json["pending"]
    assert 3 == len(palaver(*NEW, "query", "Note", "nobody", "--by", "by_owner").json["data"])

    again = palaver(*NEW, "migrate", "apply", "plan.json")
    assert (7, "not_provisioned") == (again.code, again.problem["code"])
    assert [] == palaver(*NEW, "migrate", "apply").json["steps"]


def test_a_plan_that_was_touched_is_refused(palaver: Palaver, notes: Path) -> None:
    palaver(*NEW, "migrate", "plan", "-o", "plan.json")
    text = Path("plan.json").read_text()
    Path("plan.json").write_text(text.replace('"required": true', '"required": false', 1))
    ran = palaver(*NEW, "migrate", "apply", "plan.json")
    assert 2 == ran.code
    assert "was changed after it was made" in ran.problem["detail"]
    assert 3 == palaver(*NEW, "migrate", "apply", "nowhere.json").code


def test_what_goes_is_named_each_by_itself(palaver: Palaver, notes: Path) -> None:
    wrong = palaver(*NEW, "migrate", "apply", "--allow-data-loss", "Note.body")
    assert 7 == wrong.code
    assert "Note.body" in wrong.problem["detail"]
    done = palaver(*NEW, "migrate", "apply", "--allow-data-loss", "Note.old")
    assert 0 == done.code
    assert "column old of notes goes, with its values" in done.json["steps"]
    assert [] == palaver(*NEW, "migrate", "status").json["kept"]
    Path("plan.json").write_text("{}")
    assert 2 == palaver(*NEW, "migrate", "apply", "plan.json").code


def test_records_that_do_not_fit_are_counted_and_nothing_is_done(palaver: Palaver, notes: Path) -> None:
    from importlib import import_module

    schema = import_module("notes_app").V1
    with library.open_sync("notes.db", schema=schema, maintain=False) as store:
        store.create(schema.entities["Note"].entity(id="x", body="text 1"))
    plan = palaver(*NEW, "migrate", "plan")
    assert 7 == plan.code
    assert [
        "Note.one (text): 1 stored record holds a value that another one holds."
        " Change the records that share a value first, with the program of before."
    ] == plan.json["unmet"]
    before = palaver(*OLD, "query", "Note", "x").json["data"]
    refused = palaver(*NEW, "migrate", "apply")
    assert (7, "not_provisioned") == (refused.code, refused.problem["code"])
    assert "text 1" not in refused.err
    assert "Nothing was changed" in refused.problem["hint"]
    assert before == palaver(*OLD, "query", "Note", "x").json["data"]


def test_the_statements_are_those_of_the_database(palaver: Palaver, notes: Path) -> None:
    ran = palaver(*NEW, "migrate", "plan", "--sql")
    assert 'ALTER TABLE "notes" RENAME COLUMN "body" TO "text";' in ran.out
    assert "-- reserve the values of Note.one: left to `palaver migrate apply`" in ran.out
    assert "op.get_bind()" in palaver(*NEW, "migrate", "plan", "--emit", "alembic", "--down-revision", "abc").out
    assert 2 == palaver(*NEW, "migrate", "plan", "--emit", "cloudformation").code
    written = palaver(
        "--schema", "notes_app:V2", "-u", "dynamodb://eu-central-1/app-", "migrate", "plan", "--emit", "cloudformation", "-o", "t.json"
    )
    assert 0 == written.code
    assert "app-notes" == json.loads(Path("t.json").read_text())["Resources"]["NotesTable"]["Properties"]["TableName"]


def test_what_somebody_else_changed_is_told(palaver: Palaver, notes: Path) -> None:
    import subprocess

    code = "import sqlite3; c = sqlite3.connect('notes.db'); c.execute('ALTER TABLE notes ADD COLUMN \"mine\" /* text */ TEXT')"
    subprocess.run([sys.executable, "-c", code], check=True)
    ran = palaver(*OLD, "migrate", "status")
    assert (7, ["column mine of notes was added by somebody else"]) == (ran.code, ran.json["drift"])


def test_a_migration_that_was_cut_off_goes_on(palaver: Palaver, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palaver.migrating import run

    async def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run, "fill", cut)
        assert 130 == palaver(*NEW, "migrate", "apply").code
    status = palaver(*NEW, "migrate", "status")
    assert (7, True) == (status.code, status.json["under_way"])
    assert "fill owner of notes" == status.json["pending"][0]
    done = palaver(*NEW, "migrate", "apply")
    assert (0, True) == (done.code, done.json["resumed"])
    assert 0 == palaver(*NEW, "migrate", "status").code


def test_people_read_what_was_done(palaver: Palaver, notes: Path) -> None:
    plan = palaver("--human", *NEW, "migrate", "plan")
    assert "+ column body of notes becomes text  (renames)" in plan.out
    assert "= Note.old is stored and not declared; it is kept. --allow-data-loss Note.old drops it." in plan.out
    applied = palaver("--human", *NEW, "migrate", "apply")
    assert "✓ fill owner of notes" in applied.out
    assert "✓ 1  " in palaver("--human", *NEW, "migrate", "status").out


def test_a_plan_file_is_as_it_was(palaver: Palaver, notes: Path, golden: Callable[[str, str], None]) -> None:
    palaver(*NEW, "migrate", "plan", "-o", "plan.json")
    golden("cli/notes.plan.json", Path("plan.json").read_text())


def test_a_program_older_than_the_data_is_told_where_things_stand(palaver: Palaver, notes: Path) -> None:
    assert 0 == palaver(*NEW, "migrate", "apply").code
    ran = palaver(*OLD, "migrate", "status")
    assert (7, [], 2) == (ran.code, ran.json["pending"], ran.json["stored_version"])
    assert [2] == [each["schema_version"] for each in ran.json["applied"]]
    assert "this program has 1" in ran.json["refused"]
    told = palaver("--human", *OLD, "migrate", "status").out
    assert "✓ 1  " in told
    assert "stored is version 2, fingerprint" in told
    assert "lead the data back to this one: `palaver migrate undo`" in told
    assert 7 == palaver(*OLD, "migrate", "plan").code
    with_nothing_to_do = palaver("--human", *NEW, "migrate", "status")
    assert (0, False) == (with_nothing_to_do.code, "stored is" in with_nothing_to_do.out)


def test_what_cannot_be_migrated_is_told_by_status_as_well(palaver: Palaver, notes: Path) -> None:
    with (notes.parent / "notes_app.py").open("a") as module:
        module.write(
            "\n\nclass Note(Entity, table='notes'):\n    id: int\n    key = Key('id')\n\n\nV3 = Schema('notes', [Note], version=3)\n"
        )
    sys.modules.pop("notes_app")
    ran = palaver("--schema", "notes_app:V3", "-u", "notes.db", "migrate", "status")
    assert (7, []) == (ran.code, ran.json["pending"])
    assert "declared as int" in ran.json["refused"]
    assert ran.json["turn"]


def test_the_program_from_before_leads_back(palaver: Palaver, notes: Path) -> None:
    assert 0 == palaver(*NEW, "migrate", "apply").code
    refused = palaver(*OLD, "migrate", "plan")
    assert "palaver migrate undo" in refused.err
    before = notes.read_bytes()
    ran = palaver(*OLD, "migrate", "undo", "--dry-run", "--json")
    assert (7, False) == (ran.code, ran.json["applied"])
    assert "column text of notes becomes body" in ran.json["steps"]
    assert ["Note.owner"] == ran.json["kept"]
    written = palaver(*OLD, "migrate", "undo", "--sql")
    assert 7 == written.code
    assert 'RENAME COLUMN "text" TO "body"' in written.out
    assert before == notes.read_bytes()

    done = palaver(*OLD, "migrate", "undo", "--human")

    assert 0 == done.code
    assert "✓ column text of notes becomes body" in done.out
    assert "= Note.owner is stored and not declared; it is kept." in done.out
    assert 0 == palaver(*OLD, "migrate", "status").code
    assert "text 1" in palaver(*OLD, "query", "Note", "--where", "id=1", "--json").out
    assert 7 == palaver(*OLD, "migrate", "undo").code
    assert 0 == palaver(*NEW, "migrate", "apply").code


def test_a_reviewed_plan_leads_back_as_well(palaver: Palaver, notes: Path) -> None:
    assert 0 == palaver(*NEW, "migrate", "apply").code
    assert 7 == palaver(*OLD, "migrate", "undo", "-o", "back.json").code
    planned = [each["words"] for each in json.loads(Path("back.json").read_text())["actions"]]
    assert planned == palaver(*OLD, "migrate", "apply", "back.json").json["steps"]
    assert 0 == palaver(*OLD, "migrate", "status").code
