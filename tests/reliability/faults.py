"""What fails beside a store, the error it then raises, and the test that makes it happen: the list the reliability page shows."""

from __future__ import annotations

from typing import NamedTuple

ENGINES = "tests/engines/"


class Fault(NamedTuple):
    """A fault on an engine. `told`: the error, or what is kept; `tests`: each a file and a function."""

    what: str
    engine: str
    told: str
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        "killed with SIGKILL under load",
        "SQLite",
        "nothing acknowledged is lost",
        ("tests/reliability/test_kill.py::test_nothing_acknowledged_is_lost_to_a_kill",),
    ),
    Fault(
        "the server killed with SIGKILL under load",
        "PostgreSQL",
        "`Unavailable` or `OutcomeUnknown` meanwhile; nothing acknowledged is lost, and the server is found again",
        (ENGINES + "test_postgres_faults.py::test_a_server_killed_under_load_keeps_what_was_acknowledged_and_is_found_again",),
    ),
    Fault(
        "the server killed with SIGKILL under load",
        "Redis",
        "`Unavailable` meanwhile; no wrong answer",
        (ENGINES + "test_redis_faults.py::test_a_server_killed_and_restarted_under_load_gives_named_errors_and_no_wrong_answers",),
    ),
    Fault(
        "the connection cut before or after COMMIT",
        "PostgreSQL",
        "`OutcomeUnknown`; repeated with its token, lost 0 and doubled 0",
        (
            ENGINES + "test_postgres_faults.py::test_a_connection_cut_before_or_after_the_commit_loses_and_doubles_nothing",
            ENGINES + "test_postgres_faults.py::test_without_a_token_a_lost_answer_is_told",
        ),
    ),
    Fault(
        "the answer of a write lost",
        "DynamoDB",
        "a transaction is repeated with its token, a single write is `OutcomeUnknown`",
        (
            ENGINES + "test_dynamodb_faults.py::test_a_transaction_whose_answer_is_lost_is_repeated_with_its_token",
            ENGINES + "test_dynamodb_faults.py::test_a_single_write_whose_answer_is_lost_is_not_repeated_blindly",
        ),
    ),
    Fault(
        "the answer of a write lost",
        "S3",
        "`OutcomeUnknown`; repeating is harmless",
        (ENGINES + "test_s3_failures.py::test_a_write_whose_answer_is_lost_has_an_unknown_outcome",),
    ),
    Fault(
        "every connection in use",
        "PostgreSQL",
        "`Throttled` after `wait`; the pool works again",
        (ENGINES + "test_postgres_faults.py::test_a_full_pool_is_throttled_and_works_again",),
    ),
    Fault(
        "every connection in use",
        "DynamoDB",
        "`Throttled` at the deadline",
        (ENGINES + "test_dynamodb_connections.py::test_a_full_pool_is_throttling_at_the_deadline",),
    ),
    Fault(
        "a pool larger than the server allows",
        "PostgreSQL",
        "`ConfigError` at opening",
        (ENGINES + "test_postgres_faults.py::test_a_pool_larger_than_the_server_allows_is_refused",),
    ),
    Fault(
        "a wrong password or secret",
        "PostgreSQL",
        "`Unauthenticated`, without the password",
        (ENGINES + "test_postgres_faults.py::test_a_wrong_password_is_unauthenticated_and_not_shown",),
    ),
    Fault(
        "a wrong password or secret",
        "DynamoDB",
        "`Unauthenticated`",
        (ENGINES + "test_dynamodb_signing.py::test_a_server_that_checks_signatures_tells_a_wrong_secret_from_the_right_one",),
    ),
    Fault(
        "a wrong password or secret",
        "S3",
        "`Unauthenticated`",
        (ENGINES + "test_s3_failures.py::test_a_key_nobody_knows_is_not_authenticated",),
    ),
    Fault(
        "a wrong password or secret",
        "Redis",
        "`Unauthenticated`, without the password",
        (ENGINES + "test_redis_faults.py::test_a_wrong_password_is_unauthenticated_and_is_never_shown",),
    ),
    Fault("missing rights", "PostgreSQL", "`Forbidden`", (ENGINES + "test_postgres_faults.py::test_missing_rights_are_forbidden",)),
    Fault(
        "missing rights",
        "DynamoDB",
        "`Forbidden`, after one attempt",
        (ENGINES + "test_dynamodb_client.py::test_each_code_is_a_named_error_and_only_collisions_are_tried_again",),
    ),
    Fault("missing rights", "S3", "`Forbidden`", (ENGINES + "test_s3_failures.py::test_without_rights_everything_is_forbidden",)),
    Fault("missing rights", "Redis", "`Forbidden`", (ENGINES + "test_redis_faults.py::test_a_user_without_rights_is_forbidden",)),
    Fault(
        "throttling that lasts",
        "DynamoDB",
        "`Throttled` with the reason and the table; nothing was written",
        (
            ENGINES + "test_dynamodb_faults.py::test_a_throttled_write_is_not_written_and_says_so",
            ENGINES + "test_dynamodb_client.py::test_throttling_says_which_limit_and_where",
        ),
    ),
    Fault(
        "throttling that lasts",
        "S3",
        "`Throttled` after four attempts",
        (ENGINES + "test_s3_failures.py::test_throttling_that_lasts_is_told_after_some_attempts",),
    ),
    Fault(
        "items left unprocessed",
        "DynamoDB",
        "asked again until each has landed once",
        (
            ENGINES + "test_dynamodb_faults.py::test_items_left_unprocessed_land_once",
            ENGINES + "test_dynamodb_client.py::test_what_a_batch_leaves_unprocessed_is_written_later_and_nothing_else_again",
        ),
    ),
    Fault(
        "an index still being built",
        "PostgreSQL",
        "`NotProvisioned` at opening; `palaver doctor` names one that was not built to its end",
        (
            ENGINES + "test_postgres_faults.py::test_an_index_that_is_being_built_is_not_provisioned",
            "tests/cli/test_doctor_postgres.py::test_an_index_that_was_not_built_to_its_end_is_found",
        ),
    ),
    Fault(
        "an index still being built",
        "DynamoDB",
        "`NotProvisioned`",
        (ENGINES + "test_dynamodb_faults.py::test_an_index_that_is_being_built_is_not_provisioned",),
    ),
    Fault(
        "a key as hot as a whole tenant",
        "DynamoDB",
        "`Throttled` with the reason “hot key” and a hint at `shards=`; a counter is counted in one request, without reading",
        (
            ENGINES + "test_dynamodb_client.py::test_throttling_says_which_limit_and_where",
            ENGINES + "test_dynamodb_faults.py::test_a_hot_counter_is_counted_without_reading",
        ),
    ),
    Fault(
        "a program older than the database",
        "all",
        "it reads and patches; a whole record is `NotProvisioned`, so that nothing it does not know of is lost",
        (
            "tests/evolve/test_interrupted.py::test_an_older_program_reads_and_patches_and_puts_nothing",
            ENGINES + "test_postgres_faults.py::test_a_program_the_database_is_ahead_of_reads_and_puts_nothing",
        ),
    ),
    Fault(
        "migrated while a process has it open",
        "SQLite, PostgreSQL, DynamoDB",
        "`NotProvisioned` within a second, and before the first step of what more than adds; no acknowledged write is lost",
        (
            "tests/evolve/test_noticed.py::test_nothing_an_old_process_was_thanked_for_is_lost_to_a_rename",
            "tests/evolve/test_noticed.py::test_a_process_that_is_older_than_the_data_by_now_may_do_what_it_might_had_it_been_opened_then",
        ),
    ),
    Fault(
        "the source of a copy lost for good",
        "all",
        "the target says up to when it is whole and what it lacks, and is opened",
        ("tests/lifecycle/test_copy_promote.py::test_what_was_followed_is_there_whole_and_the_target_is_a_store_that_goes_on",),
    ),
    Fault(
        "a large object cut off on its way",
        "folder, S3",
        "what the source raised; no object, no part and no record",
        (
            "src/palaver/testing/blob_streams.py::test_a_stream_that_is_cancelled_leaves_nothing",
            "src/palaver/testing/blob_streams.py::test_an_error_of_the_source_goes_through_and_leaves_nothing",
        ),
    ),
)
