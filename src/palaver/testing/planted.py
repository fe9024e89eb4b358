"""Bugs planted on purpose: a suite that lets one of them pass proves nothing by being green.

Each is a small change to the memory engine or to a function all engines share, of a kind that engines really have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from unittest.mock import patch

from palaver import expr, ops, values
from palaver.errors import PathOverlap
from palaver.ops import MARK, REVISION, Delete, Table
from palaver.records import memory
from palaver.records.memory import MemoryRecords, Ordered
from palaver.testing import planted_engines as wrong
from palaver.values import Record

Make = Callable[[Sequence[Table]], MemoryRecords]


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug: how to make an engine that has it, what else to change meanwhile, and the fact expected to find it."""

    name: str
    caught_by: str
    make: Make = MemoryRecords
    changes: tuple[tuple[Any, str, Any], ...] = ()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Change what the bug changes, for as long as the block runs."""
        with contextlib.ExitStack() as stack:
            for holder, name, replacement in self.changes:
                stack.enter_context(patch.object(holder, name, replacement))
            yield


def _alters(**altered: Any) -> Make:
    return lambda tables: wrong.Alters(tables, **altered)


def _by_characters(part: Any) -> Any:
    """Order text as UTF-16 does, which is not the order of code points."""
    return part.encode("utf-16-be") if isinstance(part, str) else part


def _without_case(part: Any) -> Any:
    return part.lower().encode() + b"\0" + part.encode() if isinstance(part, str) else part


def _as_text(part: Any) -> Any:
    return str(part).encode() if isinstance(part, str | int) else part


def _place_with_blanks(order: Ordered, record: Record | None) -> Any:
    if record is None:
        return None
    return tuple(memory.sortable(record.get(name, 0 if name in ("stamp", "from", "hits", "expires") else "")) for name in order.names)


def _prefix_by_next_character(prefix: bytes) -> Any:
    """The classic way: everything below the prefix and U+FFFF, which is not the last character."""
    return prefix + "\uffff".encode()


def _reads_new_values(table: Table, record: Record, changes: Sequence[Any]) -> Record:
    for change in changes:
        record = _apply_update(table, record, [change])
    return record


def _ignores_overlaps(table: Table, record: Record, changes: Sequence[Any]) -> Record:
    with contextlib.suppress(PathOverlap):
        return _apply_update(table, record, changes)
    return _reads_new_values(table, record, changes)


def _creates_parents(table: Table, record: Record, changes: Sequence[Any]) -> Record:
    first = [change for change in changes if change.path.name == "data.a" and "data" not in record]
    return _apply_update(table, {**record, "data": {}} if first else record, changes)


def _adds_as_floats(old: Any, amount: Any, what: str) -> Any:
    return float(old) + float(amount) if isinstance(old, Decimal) or isinstance(amount, Decimal) else _add_numbers(old, amount, what)


def _adds_rounding(old: Any, amount: Any, what: str) -> Any:
    if isinstance(old, Decimal) or isinstance(amount, Decimal):
        return values.canonical(Decimal(old) + Decimal(amount))
    return old + amount


def _equal_in_python(a: Any, b: Any) -> bool:
    return bool(a == b)


def _missing_is_equal_never(stored: Any, op: Any, value: Any) -> bool:
    return False if stored is expr.MISSING else _compare(stored, op, value)


def _contains_any_text(stored: Any, op: Any, value: Any) -> bool:
    return str(value) in str(stored) if op == "contains" and stored is not expr.MISSING else _compare(stored, op, value)


def _live_without_expiry(table: Table, record: Record | None, now_us: int) -> bool:
    return record is not None and record.get(MARK) is None


def _live_without_mark(table: Table, record: Record | None, now_us: int) -> bool:
    return _is_live(table, None if record is None else {**record, MARK: None}, now_us)


def _live_a_moment_longer(table: Table, record: Record | None, now_us: int) -> bool:
    return _is_live(table, record, now_us - 1)


def _absent_over_marked(guard: Any, table: Table, record: Record | None, now_us: int) -> bool:
    if isinstance(guard.when, ops.Absent):
        return not _is_live(table, record, now_us)
    return _holds(guard, table, record, now_us)


def _judges_the_dead(guard: Any, table: Table, record: Record | None, now_us: int) -> bool:
    if isinstance(guard.when, ops.Holds):
        return expr.evaluate(guard.when.condition, record or {})
    return _holds(guard, table, record, now_us)


def _unchanged_by_age(guard: Any, table: Table, record: Record | None, now_us: int) -> bool:
    if isinstance(guard.when, ops.Unchanged) and record is not None and guard.when.revision is not None:
        return guard.when.revision >= record[REVISION]  # type: ignore[operator]
    return _holds(guard, table, record, now_us)


def _through_json(value: Any) -> Any:
    """Lists and maps as plain JSON would give them back."""
    if isinstance(value, dict):
        return {name: _through_json(inner) for name, inner in value.items()}
    if isinstance(value, list | frozenset):
        return [_through_json(inner) for inner in value]
    return float(value) if isinstance(value, Decimal) else value


_apply_update, _add_numbers, _compare, _holds, _is_live = ops.apply_update, expr.add_numbers, expr._compare, ops.holds, ops.is_live


def _everywhere(name: str, replacement: Any) -> tuple[tuple[Any, str, Any], ...]:
    """Replace a function of ops or expr in every module that took it by name."""
    return tuple((module, name, replacement) for module in (ops, expr, memory) if hasattr(module, name))


PLANTED = (
    Planted("conditions are not judged", "test_a_refused_op_is_not_written", wrong.DropsConditions),
    Planted("only the first guard is judged", "test_all_guards_of_an_op_must_hold", wrong.ChecksOnlyTheFirstGuard),
    Planted("checks are forgotten", "test_a_failed_check_of_another_table_stops_the_batch", wrong.ForgetsChecks),
    Planted(
        "only the first failure is listed", "test_every_failed_op_is_listed_in_order_with_what_was_found", wrong.StopsAtTheFirstFailure
    ),
    Planted("a refused batch is half written", "test_one_refused_op_keeps_all_others_from_being_written", wrong.WritesUpToTheFailure),
    Planted("guards see the batch itself", "test_guards_are_judged_against_the_state_before_the_batch", wrong.JudgesGuardsDuringTheBatch),
    Planted("a put keeps old attributes", "test_a_second_put_replaces_the_whole_record", wrong.MergesPuts),
    Planted("an update creates", "test_an_update_of_nothing_creates_nothing", wrong.UpdatesCreate),
    Planted("an update keeps the revision", "test_an_update_that_changes_nothing_grows_the_revision", wrong.KeepsTheRevisionOfUpdates),
    Planted(
        "a revision is only the time",
        "test_revisions_grow_when_the_clock_goes_back",
        changes=_everywhere("next_revision", lambda _, now: now),
    ),
    Planted("indexes miss updates", "test_an_update_shows_in_the_indexes", wrong.LeavesIndexesOnUpdate),
    Planted("indexes show old attributes", "test_an_index_read_gives_the_whole_record_as_it_is", wrong.IndexesKeepTheOldRecord),
    Planted("indexes keep deleted records", "test_a_deleted_record_leaves_every_index", wrong.LeavesIndexesOnDelete),
    Planted("refused batches are published", "test_a_refused_batch_leaves_no_change", wrong.PublishesRefused),
    Planted("changes of a batch are lost", "test_the_changes_of_a_batch_are_in_the_order_of_its_ops", wrong.LosesChanges),
    Planted("tables without feed are published", "test_a_table_without_feed_leaves_no_changes", wrong.PublishesQuietTables),
    Planted("deleting nothing is published", "test_deleting_or_updating_nothing_and_checking_are_no_changes", wrong.PublishesEmptyDeletes),
    Planted("released keys are dropped", "test_a_change_carries_the_keys_it_released", _alters(released=lambda change, op: ())),
    Planted("causes are dropped", "test_a_change_carries_its_cause", _alters(cause=lambda change, op: ops.Cause())),
    Planted("a change holds values", "test_a_change_holds_no_values", _alters(released=lambda change, op: (repr(op),))),
    Planted(
        "keys become text in the feed",
        "test_a_change_holds_the_key_in_its_own_types",
        _alters(key=lambda change, op: tuple(map(str, change.key))),
    ),
    Planted(
        "expired deletes look like others",
        "test_an_expired_delete_has_its_own_kind",
        _alters(kind=lambda change, op: "deleted" if isinstance(op, Delete) else change.kind),
    ),
    Planted(
        "a delete keeps the old revision",
        "test_the_changes_of_one_record_are_in_the_order_of_revisions",
        _alters(revision=lambda change, op: change.revision - isinstance(op, Delete)),
    ),
    Planted("pages lose ties", "test_index_ties_page_without_loss_or_duplicate", wrong.PagesWithoutTheKey),
    Planted("positions are off by one", "test_small_pages_together_equal_one_big_read", wrong.PositionsFromTheNext),
    Planted("positions are offsets", "test_a_position_stays_good_when_its_record_is_deleted", wrong.PositionsByOffset),
    Planted("limits count live records only", "test_a_limit_counts_hidden_records_too", wrong.LimitsAfterHiding),
    Planted("a full page is taken for the last", "test_small_pages_together_equal_one_big_read", wrong.EndsAtAFullPage),
    Planted("pages have no size", "test_a_page_holds_at_most_a_megabyte", changes=((memory, "PAGE_BYTES", 10**9),)),
    Planted("segments overlap", "test_segments_are_disjoint_and_complete_together", wrong.ScansSegmentsTwice),
    Planted("counts ignore expiry and marks", "test_a_count_is_of_live_records_only", wrong.CountsHidden),
    Planted("counts ignore marks", "test_a_count_is_of_live_records_only", wrong.CountsMarked),
    Planted("counts stop at a page", "test_a_count_ignores_limit_position_and_page_size", wrong.CountsOnePage),
    Planted("trimming is not told", "test_a_reader_older_than_the_feed_is_told", wrong.TrimsSilently),
    Planted("trimming takes one too many", "test_trimming_forgets_what_is_older_and_keeps_the_rest", wrong.TrimsTooMuch),
    Planted("positions are used again", "test_positions_are_not_used_again_after_everything_was_trimmed", wrong.UsesPositionsAgain),
    Planted("waiting never ends early", "test_waiting_ends_when_a_change_comes", wrong.WakesNobody),
    Planted("reads hand out what is stored", "test_changing_what_was_handed_in_or_out_changes_nothing_stored", wrong.HandsOutItsOwn),
    Planted(
        "missing records are left out", "test_get_answers_in_the_order_asked_with_duplicates_and_missing", wrong.AnswersWithoutTheMissing
    ),
    Planted("expired records come unordered", "test_expired_records_are_found_oldest_first_up_to_a_limit", wrong.ExpiredUnordered),
    Planted("a new index starts empty", "test_a_created_index_shows_records_written_before_and_after", wrong.ForgetsBackfill),
    Planted(
        "text orders as UTF-16",
        "test_text_order_is_not_the_order_of_utf16_nor_of_any_language",
        changes=((memory, "sortable", _by_characters),),
    ),
    Planted(
        "text orders without case",
        "test_text_order_is_not_the_order_of_utf16_nor_of_any_language",
        changes=((memory, "sortable", _without_case),),
    ),
    Planted("integer keys order as text", "test_integer_keys_are_read_in_the_order_of_numbers", changes=((memory, "sortable", _as_text),)),
    Planted(
        "a prefix ends at U+FFFF",
        "test_a_prefix_with_the_top_of_the_code_space_is_exact",
        changes=((memory, "_after_prefix", _prefix_by_next_character),),
    ),
    Planted(
        "sparse parts are indexed",
        "test_a_record_without_an_index_part_is_not_in_the_index",
        changes=((Ordered, "place", _place_with_blanks),),
    ),
    Planted(
        "updates read new values",
        "test_two_attributes_are_swapped_because_changes_read_the_old_record",
        changes=_everywhere("apply_update", _reads_new_values),
    ),
    Planted("overlaps are accepted", "test_overlapping_paths_are_an_error", changes=_everywhere("apply_update", _ignores_overlaps)),
    Planted("missing parents are made", "test_a_missing_parent_is_an_error", changes=_everywhere("apply_update", _creates_parents)),
    Planted("Decimals are added as floats", "test_decimals_are_added_exactly", changes=_everywhere("add_numbers", _adds_as_floats)),
    Planted("sums are rounded", "test_adding_beyond_38_digits_is_an_error", changes=_everywhere("add_numbers", _adds_rounding)),
    Planted("True equals 1", "test_a_condition_holds", changes=_everywhere("same", _equal_in_python)),
    Planted("a missing attribute differs from nothing", "test_a_condition_holds", changes=_everywhere("_compare", _missing_is_equal_never)),
    Planted("contains looks at the text of anything", "test_a_condition_fails", changes=_everywhere("_compare", _contains_any_text)),
    Planted("expiry is forgotten", "test_alive_holds_over_a_live_record_only", changes=_everywhere("is_live", _live_without_expiry)),
    Planted("marks are forgotten", "test_alive_holds_over_a_live_record_only", changes=_everywhere("is_live", _live_without_mark)),
    Planted(
        "expiry is a moment late",
        "test_a_record_expires_at_the_instant_and_not_before",
        changes=_everywhere("is_live", _live_a_moment_longer),
    ),
    Planted(
        "a marked record counts as absent",
        "test_creating_over_a_marked_record_is_refused",
        changes=_everywhere("holds", _absent_over_marked),
    ),
    Planted(
        "conditions see the dead",
        "test_a_condition_is_judged_on_an_empty_record_where_none_is_live",
        changes=_everywhere("holds", _judges_the_dead),
    ),
    Planted("unchanged means not newer", "test_unchanged_holds_for_exactly_this_revision", changes=_everywhere("holds", _unchanged_by_age)),
    Planted("values go through plain JSON", "test_a_decimal_keeps_every_digit", changes=((memory, "copied", _through_json),)),
)
