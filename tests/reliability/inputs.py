"""What is put into a store, bad and real, what comes of it, and the test of each: the lists the reliability page shows."""

from __future__ import annotations

from typing import NamedTuple

STORE, UNIT, HERE = "tests/store/", "tests/unit/", "tests/reliability/"
SQLITE, FILES = "tests/engines/test_sqlite_connection.py::", "tests/engines/test_sqlite_files.py::"
REAL = "tests/blueprints/baller/test_real_input.py::"


class Input(NamedTuple):
    """`told`: the error, or what is promised; `tests`: each a file and a function."""

    what: str
    told: str
    tests: tuple[str, ...]


BAD = (
    Input(
        "unknown fields, wrong types",
        "`ValidationError` of Pydantic when the instance is made; `Expression` with the nearest name, or `Validation`, in a patch",
        (
            STORE + "test_limits.py::test_unknown_fields_and_wrong_types_are_refused_when_the_instance_is_made",
            STORE + "test_verbs.py::test_patching_tells_what_cannot_be",
            STORE + "test_verbs.py::test_a_wrong_type_smuggled_in_by_model_copy_is_refused",
        ),
    ),
    Input(
        "keys of 2,049 bytes, empty keys, index entries that are too long",
        "`KeyTooLong`, `EmptyKey`; exactly the limit is stored",
        (
            STORE + "test_limits.py::test_keys_of_exactly_the_limit_are_stored",
            STORE + "test_limits.py::test_an_index_entry_is_limited_with_its_key",
            STORE + "test_limits.py::test_each_piece_of_bad_input_has_its_own_error",
        ),
    ),
    Input(
        "NUL and lone surrogates, as values, names and keys",
        "`Validation`, by every verb, and nothing is stored",
        (
            STORE + "test_limits.py::test_what_no_engine_holds_is_refused_by_every_verb",
            REAL + "test_what_no_engine_can_store_is_refused_as_anything",
        ),
    ),
    Input(
        "forged cursors, those of another query, tenant or day",
        "`BadCursor`",
        (
            UNIT + "test_cursor.py::test_what_was_not_signed_is_refused",
            UNIT + "test_cursor.py::test_no_single_changed_character_gets_through",
            UNIT + "test_cursor.py::test_another_tenant_is_refused",
            STORE + "test_paging.py::test_a_cursor_serves_only_its_own_query",
        ),
    ),
    Input(
        "a record of 409,601 bytes",
        "`ItemTooLarge`; 409,600 are stored",
        (STORE + "test_limits.py::test_a_record_of_exactly_the_limit_is_stored_and_one_byte_more_is_not",),
    ),
    Input(
        "a batch of 101 operations, or over 4 MB, after expansion",
        "`BatchShape`; 100 are written",
        (
            STORE + "test_limits.py::test_a_batch_has_at_most_a_hundred_ops_after_expansion",
            STORE + "test_limits.py::test_a_batch_has_at_most_four_megabytes",
        ),
    ),
    Input(
        "a duplicate create",
        "`AlreadyExists`, which shows the record; of many at once exactly one wins",
        (
            STORE + "test_verbs.py::test_create_refuses_a_key_that_is_taken_and_shows_the_record",
            STORE + "test_verbs.py::test_of_many_creates_exactly_one_wins",
        ),
    ),
    Input(
        "a patch of something deleted",
        "`ConditionFailed`, and no record is made",
        (
            STORE + "test_verbs.py::test_patch_of_a_deleted_record_is_refused",
            STORE + "test_verbs.py::test_patch_of_a_record_that_is_not_there_is_refused_and_makes_none",
        ),
    ),
    Input(
        "a database file that is missing",
        "`Unavailable`; made where that is allowed",
        (HERE + "test_ways_out.py::test_a_missing_file_is_unavailable_and_made_where_that_is_allowed",),
    ),
    Input(
        "a file that is read-only",
        "`ReadOnly` for writes, reads go on; written when it may be again",
        (
            HERE + "test_ways_out.py::test_a_file_opened_for_reading_is_read_and_not_written",
            FILES + "test_a_file_without_write_permission_is_read_only",
        ),
    ),
    Input(
        "a disk that is full in the middle of a group commit",
        "each batch is tried alone: `StorageFull` for those that do not fit; writing goes on when there is room",
        (
            SQLITE + "test_when_the_file_is_full_each_batch_of_the_group_is_tried_alone",
            HERE + "test_no_room.py::test_a_disk_full_at_any_write_of_it_leaves_nothing_half_done",
            HERE + "test_disk_failures.py::test_calls_that_fail_lose_nothing_acknowledged",
        ),
    ),
    Input(
        "a file that is corrupt, cut short, or of another program",
        "`Corruption`; what is whole is read on, and the file is left as it is",
        (
            HERE + "test_ways_out.py::test_a_damaged_page_is_corruption_and_what_is_whole_is_read_on",
            HERE + "test_ways_out.py::test_a_file_cut_short_is_corruption_and_never_silently_less",
            HERE + "test_ways_out.py::test_text_and_a_foreign_database_are_refused_and_left_as_they_are",
        ),
    ),
    Input(
        "a file of a newer version",
        "`NotProvisioned` for what could lose something; read and left as it is",
        (
            HERE + "test_ways_out.py::test_a_file_of_a_newer_program_is_read_by_an_older_one_and_left_as_it_is",
            FILES + "test_a_file_of_another_or_a_newer_program_is_refused",
        ),
    ),
    Input(
        "a file another process keeps locked",
        "`Conflict` after `timeout`, and then over",
        (
            HERE + "test_ways_out.py::test_a_file_another_process_keeps_locked_is_a_conflict_and_then_over",
            FILES + "test_opening_a_locked_file_is_a_conflict",
        ),
    ),
    Input(
        "a file that is moved, replaced or deleted while it is open",
        "`Unavailable` for writes: nothing is acknowledged that nobody would find again",
        (FILES + "test_nothing_is_acknowledged_into_a_file_that_is_no_longer_there",),
    ),
    Input(
        "a file that has another name, a hard link",
        "`ConfigError`: each name has a log of its own, and two that write would damage the file",
        (FILES + "test_a_file_that_has_two_names_is_written_by_neither",),
    ),
    Input(
        "two processes writing",
        "nothing lost, nothing doubled, one feed in order",
        (HERE + "test_processes.py::test_two_processes_race_without_losing_or_doubling", FILES + "test_two_processes_write_one_file"),
    ),
    Input(
        "a fork, another event loop",
        "`ConfigError`; the parent goes on",
        (
            HERE + "test_processes.py::test_a_forked_child_is_refused_and_the_parent_goes_on",
            HERE + "test_processes.py::test_another_loop_is_refused_by_every_verb",
        ),
    ),
    Input(
        "a cancel before and after the batch is taken",
        "before: nothing is written; after: wholly there or not at all",
        (
            SQLITE + "test_a_caller_cancelled_before_its_batch_is_taken_has_written_nothing",
            SQLITE + "test_a_caller_cancelled_later_leaves_the_writer_unharmed",
            HERE + "test_processes.py::test_a_cancelled_write_is_wholly_there_or_not_at_all",
        ),
    ),
    Input(
        "a closed loop",
        "the writer goes on to its end; nothing acknowledged is lost",
        (
            SQLITE + "test_a_closed_loop_does_not_stop_the_writer",
            HERE + "test_processes.py::test_a_loop_that_ends_in_the_middle_loses_nothing_acknowledged",
        ),
    ),
    Input(
        "a full queue",
        "waits until the deadline, then `Throttled`; what was refused is not written",
        (
            SQLITE + "test_a_full_queue_lets_callers_wait_until_their_deadline",
            HERE + "test_processes.py::test_a_full_queue_is_throttled_and_what_was_refused_is_not_written",
        ),
    ),
    Input(
        "a feed trimmed to nothing",
        "`Trimmed` for a reader that is behind; projections are built anew and end as the records say",
        (
            HERE + "test_projections.py::test_a_feed_trimmed_to_nothing_leads_to_rebuilding",
            STORE + "test_running.py::test_a_projection_is_rebuilt_on_demand_and_when_the_feed_was_trimmed",
        ),
    ),
    Input(
        "anything of the above",
        "no error, repr or log line holds what was stored",
        (STORE + "test_limits.py::test_no_error_and_no_log_line_holds_what_was_stored",),
    ),
)

REAL_INPUT = (
    Input(
        "1,446 football matches, 546 clubs with 1,161 aliases, 61 team names",
        "every match is kept in the entity cache, and every club is found by every name",
        (REAL + "test_every_club_is_found_by_every_name_and_every_match_is_kept",),
    ),
    Input(
        "1,400 schema-guided dialogues (25,800 turns, 4,003 API calls)",
        "recorded as turns, read back equal turn by turn, found by search; a sample in each run, all in the long one",
        (REAL + "test_schema_guided_dialogues_are_read_back_as_they_were", REAL + "test_every_dialogue_is_read_back_as_it_was"),
    ),
    Input(
        "600 Taskmaster dialogues",
        "the same",
        (REAL + "test_ordering_dialogues_are_read_back_as_they_were", REAL + "test_every_dialogue_is_read_back_as_it_was"),
    ),
    Input(
        "12,500 lines of a chat channel, many people at once",
        "nothing is lost; a part in each run, all in the long one",
        (REAL + "test_a_busy_server_of_many_people_at_once_loses_nothing", REAL + "test_the_whole_channel_loses_nothing"),
    ),
    Input(
        "the naughty strings",
        "as content, names and ids, through every path, and found again",
        (
            REAL + "test_every_naughty_string_but_the_empty_one_passes_through_every_path",
            "src/palaver/testing/records/content.py::test_every_naughty_text_comes_back",
            "src/palaver/testing/records/ordering.py::test_a_naughty_text_is_a_key_like_any_other",
        ),
    ),
    Input(
        "a list of model prices",
        "every model costs exactly what the list says; one without a price is counted as unpriced, never as free",
        (
            "tests/insight/test_usage.py::test_every_model_of_the_price_list_costs_exactly_what_the_list_says",
            "tests/insight/test_usage.py::test_an_unknown_model_is_unpriced_and_never_free",
        ),
    ),
)
