"""Every bug planted in the SQLite engine and the store is found by the proof named for it."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

import palaver
from palaver.errors import PalaverError
from tests.engines import test_sqlite_connection as connection
from tests.engines.sqlite_jobs import made
from tests.reliability import (
    test_kill as kill,
    test_objects as objects,
    test_power_cut as power,
    test_processes as processes,
    test_projections as projections,
    test_promises as promises,
)
from tests.reliability.app import SCHEMA, Note, Owner
from tests.reliability.planted import PLANTED, planted
from tests.reliability.tracing import Victims, untraceable

Proof = Callable[..., Any]

CAUGHT_BY: dict[str, tuple[Proof, dict[str, Any]]] = {
    "synchronous_off": (power.test_nothing_acknowledged_is_lost_to_a_power_cut, {}),
    "synchronous_normal": (power.test_nothing_acknowledged_is_lost_to_a_power_cut, {}),
    "folder_fsync_missing": (power.test_nothing_acknowledged_is_lost_to_a_power_cut, {}),
    "object_fsync_missing": (power.test_nothing_acknowledged_is_lost_to_a_power_cut, {}),
    "answer_before_the_commit": (kill.test_nothing_acknowledged_is_lost_to_a_kill, {}),
    "change_in_a_second_transaction": (kill.test_nothing_acknowledged_is_lost_to_hundreds_of_kills, {}),
    "each_op_in_its_own_commit": (kill.test_nothing_acknowledged_is_lost_to_a_kill, {}),
    "object_written_after_the_commit": (kill.test_nothing_acknowledged_is_lost_to_a_kill, {}),
    "token_forgotten": (kill.test_nothing_acknowledged_is_lost_to_a_kill, {}),
    "unique_claim_forgotten": (processes.test_two_processes_race_without_losing_or_doubling, {}),
    "lease_ignored": (processes.test_one_process_at_a_time_runs_a_projection, {}),
    "savepoint_dropped": (connection.test_a_failing_job_is_undone_alone, {}),
    "group_replay_dropped": (connection.test_when_the_file_is_full_each_batch_of_the_group_is_tried_alone, {}),
    "trimmed_is_passed_over": (projections.test_a_feed_trimmed_to_nothing_leads_to_rebuilding, {}),
    "position_saved_before_the_work": (projections.test_projections_converge_after_faults, {}),
    "documents_never_removed": (projections.test_projections_converge_after_faults, {}),
    "upload_without_a_guard": (
        objects.test_an_object_that_is_collected_between_its_upload_and_the_commit_is_uploaded_again,
        {"again": "patch"},
    ),
    "reference_not_looked_for": (objects.test_collecting_spares_an_object_that_is_referred_to_again, {}),
    "cursor_unsigned": (promises.test_a_cursor_that_was_changed_is_refused, {}),
    "expiry_filter_forgotten": (promises.test_an_expired_record_exists_for_no_verb, {}),
    "mark_ignored": (promises.test_a_record_being_deleted_exists_for_no_verb, {}),
}
# Anything else would be a slip of the planted code, not a proof that fails.
FAILURES = (AssertionError, PalaverError, TimeoutError, pytest.fail.Exception, json.JSONDecodeError)


async def notes_store(stack: AsyncExitStack, folder: Path) -> Any:
    store = await stack.enter_async_context(palaver.open(f"sqlite:///{folder}/a.db", schema=SCHEMA, maintain=False))
    await store.create(Owner(worker=0, name="o", handle="h"))
    await store.create(Note(worker=0, owner="o", note_id="n", payload=objects.LONG))
    return store


async def prove(proof: Proof, folder: Path, given: dict[str, Any]) -> None:
    """Run an asynchronous proof with what it asks for."""
    async with AsyncExitStack() as stack:
        wanted = inspect.signature(proof).parameters
        if "store" in wanted:
            empty = proof.__module__ == promises.__name__
            opened = palaver.open(f"sqlite:///{folder}/a.db", schema=SCHEMA, maintain=False)
            given["store"] = await stack.enter_async_context(opened) if empty else await notes_store(stack, folder)
        if "database" in wanted:
            given["database"] = await made(folder / "a.db")
            stack.push_async_callback(given["database"].aclose)
        if "monkeypatch" in wanted:
            given["monkeypatch"] = stack.enter_context(pytest.MonkeyPatch.context())
        if "tmp_path" in wanted:
            given["tmp_path"] = folder
        await proof(**given)


def prove_with_children(proof: Proof, folder: Path, plant: str) -> None:
    """Run a proof whose work happens in other processes, which have the bug; this one, which judges, has not."""
    with Victims() as one, Victims() as other:
        one.plant = other.plant = plant
        if "pair" in inspect.signature(proof).parameters:
            proof((one, other), folder)
        else:
            proof(one, folder)


# Killing until a bug shows takes seconds, so most of these wait for the long run.
QUICK = ("synchronous_normal", "each_op_in_its_own_commit", "lease_ignored")
CASES = [
    pytest.param(name, marks=[] if inspect.iscoroutinefunction(proof) or name in QUICK else pytest.mark.soak)
    for name, (proof, _) in CAUGHT_BY.items()
]


@pytest.mark.parametrize("name", CASES)
def test_a_planted_bug_is_found(name: str, tmp_path: Path) -> None:
    proof, given = CAUGHT_BY[name]
    if not inspect.iscoroutinefunction(proof):
        if untraceable():
            pytest.skip(untraceable())
        with pytest.raises(FAILURES):
            prove_with_children(proof, tmp_path, name)
        return
    for plant in ("", name):
        folder = tmp_path / (plant or "sound")
        folder.mkdir()
        with pytest.raises(FAILURES) if plant else nullcontext(), planted(plant):
            asyncio.run(prove(proof, folder, dict(given)))


def test_every_planted_bug_has_a_proof() -> None:
    assert set(PLANTED) == set(CAUGHT_BY)
