"""Policy, purely: what each batch must see first, and what it becomes."""

from __future__ import annotations

from typing import Any

import pytest

from palaver import Batch, F, days, unchanged
from palaver.batch import fingerprint
from palaver.clock import to_us
from palaver.draft import Plan
from palaver.errors import BatchShape, TenantMismatch, Validation
from palaver.ops import MARK, REVISION, Absent, Address, Alive, Check, Delete, Holds, Put, Unchanged, Update
from palaver.plan import Planner
from palaver.sealing import sealer_of
from palaver.system import blob_address, job_address, key_text, token_address
from tests.stacks import SEAL_KEYS
from tests.store.world import CHAT, NOTES, START, Conversation, Feedback, Member, Message, Note, Team, User, big, conversation, message

NOW = to_us(START)
PLANNER = Planner(CHAT, sealer_of([SEAL_KEYS]))


def record(entity: Any, revision: int = 7, **fields: Any) -> dict[str, Any]:
    encoded = PLANNER.codec(type(entity)).encode(entity, NOW, None).record
    return {**encoded, REVISION: revision, **fields}


def address(entity: Any) -> Address:
    return PLANNER.address(entity.address, None)


def plan(batch: Batch, *stored: Any, **options: Any) -> Plan:
    """Plan a batch with what it asks to see; entities are stored at revision 7."""
    found = {address(entity): record(entity) for entity in stored}
    seen = {at: found.get(at) for at in PLANNER.premises(batch)}
    return PLANNER.plan(batch, seen, NOW, **options)


def shape(made: Plan) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return verb, table and guard roles of every op."""
    return [(type(op).__name__, op.at.table, tuple(guard.origin.role for guard in op.guards)) for op in made.writes.ops]


def only(made: Plan, table: str) -> Any:
    (op,) = [op for op in made.writes.ops if op.at.table == table]
    return op


# --- premises -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "sees"),
    [
        (Batch().create(User(id="u", email="a")), False),
        (Batch().create(conversation()), False),
        (Batch().put(Feedback(conversation_id="c", id="1", rater="r")), False),
        (Batch().put(User(id="u", email="a")), True),
        (Batch().put(message()), True),
        (Batch().put(Team(id="t")), True),
        (Batch().patch(Feedback.at("c", "1", "r"), set={"stars": 5}), False),
        (Batch().patch(Conversation.at("u", "c"), set={"title": "x"}), False),
        (Batch().patch(Conversation.at("u", "c"), set={"last_active": START}), False),
        (Batch().patch(Conversation.at("u", "c"), add={"turns": 1}), True),
        (Batch().patch(Conversation.at("u", "c"), remove=["expires"]), True),
        (Batch().patch(Conversation.at("u", "c"), set={"last_active": F("expires")}), True),
        (Batch().patch(Message.at("c", "1"), set={"text": "x"}), False),
        (Batch().patch(Message.at("c", "1"), add={"number": 1}), False),
        (Batch().patch(Message.at("c", "1"), set={"context": {}}), True),
        (Batch().patch(Message.at("c", "1"), set={"intent": None}), False),
        (Batch().patch(Message.at("c", "1"), set={"mood": F("mood")}), True),
        (Batch().patch(Message.at("c", "1"), set={"user_id": "v"}), True),
        (Batch().patch(User.at("u"), set={"plan": "x"}), True),
        (Batch().delete(Feedback.at("c", "1", "r")), False),
        (Batch().delete(Team.at("t")), True),
        (Batch().delete(Conversation.at("u", "c")), True),
        (Batch().delete(User.at("u")), True),
        (Batch().check(User.at("u")), False),
    ],
)
def test_only_what_policy_depends_on_is_read_first(batch: Batch, sees: bool) -> None:
    assert sees == bool(PLANNER.premises(batch))


# --- plans ----------------------------------------------------------------------------------------------------------


def test_a_create_demands_absence_and_its_parents() -> None:
    made = plan(Batch().create(Feedback(conversation_id="c", id="1", rater="r")))

    assert [("Put", "feedback", ("absent",)), ("Check", "messages", ("ref:message",))] == shape(made)
    assert Absent() == made.writes.ops[0].guards[0].when
    assert Alive() == made.writes.ops[1].guards[0].when
    assert NOW == made.writes.now_us


def test_the_create_of_a_parent_demands_that_nothing_at_all_is_stored() -> None:
    assert Unchanged(None) == plan(Batch().create(conversation())).writes.ops[0].guards[0].when


def test_unique_values_become_reservations_with_the_expiry_of_their_record() -> None:
    made = plan(Batch().create(User(id="u", email="someone", handle="h", expires=START + days(1))))

    tables = [op.at.table for op in made.writes.ops]
    assert ["users", "palaver_system", "palaver_system", "users-history"] == tables
    email, handle = made.writes.ops[1:3]
    assert isinstance(email, Put)
    assert isinstance(handle, Put)
    assert ("unique:by_email", "unique:by_handle") == (email.guards[0].origin.role, handle.guards[0].origin.role)
    assert {"table": "users", "key": ["u"]} == email.record["body"]
    assert to_us(START + days(1)) // 1_000_000 == email.record["expires"]
    assert "someone" not in str(email.at.key)


def test_a_changed_unique_value_moves_its_reservation() -> None:
    old = User(id="u", email="a", handle="h")
    kept = plan(Batch().put(User(id="u", email="a", handle="h", password="p")), old)
    longer = plan(Batch().patch(User.at("u"), set={"expires": START + days(1)}), old)
    moved = plan(Batch().patch(User.at("u"), set={"email": "b"}), old)
    freed = plan(Batch().patch(User.at("u"), set={"active": False}), old)
    gone = plan(Batch().delete(old), old)

    def system(made: Plan) -> list[str]:
        return [type(op).__name__ for op in made.writes.ops if op.at.table == "palaver_system"]

    assert [] == system(kept)
    assert ["Put", "Put"] == system(longer)
    assert ["Delete", "Put"] == system(moved)
    assert ["Delete"] == system(freed)
    assert ["Delete", "Delete"] == system(gone)
    assert ("alive", "premise") == tuple(guard.origin.role for guard in moved.writes.ops[0].guards)
    assert Unchanged(7) == moved.writes.ops[0].guards[1].when


def test_the_claims_of_an_expired_record_are_left_to_expire() -> None:
    old = User(id="u", email="a", expires=START - days(1))

    for batch in (Batch().put(User(id="u", email="b")), Batch().delete(old)):
        assert not [op for op in plan(batch, old).writes.ops if isinstance(op, Delete) and op.at.table == "palaver_system"]
    again = plan(Batch().put(User(id="u", email="a")), old)
    assert [("unique:by_email",)] == [tuple(g.origin.role for g in op.guards) for op in again.writes.ops if op.at.table == "palaver_system"]


def test_a_reference_to_a_record_of_the_same_batch_merges_into_its_write() -> None:
    created = plan(Batch().create(message()).create(conversation()))
    patched = plan(Batch().create(message()).patch(Conversation.at("u", "c"), set={"title": "x"}))

    assert ["messages", "conversations"] == [op.at.table for op in created.writes.ops]
    assert ("absent",) == tuple(guard.origin.role for guard in created.writes.ops[1].guards)
    assert ("alive", "ref:conversation") == tuple(guard.origin.role for guard in patched.writes.ops[1].guards)


def test_several_children_check_their_parent_once() -> None:
    made = plan(Batch().create(message(1)).create(message(2)))

    assert [("Put", "messages"), ("Put", "messages"), ("Check", "conversations")] == [row[:2] for row in shape(made)]
    assert [0, 1] == [guard.origin.op for guard in made.writes.ops[2].guards]


def test_a_patch_checks_only_references_it_changes() -> None:
    assert not [op for op in plan(Batch().patch(message(), set={"intent": None}), message()).writes.ops if isinstance(op, Check)]
    changed = plan(Batch().patch(message(), set={"user_id": "v"}), message())
    assert ("v", "c") == only(changed, "conversations").at.key


def test_a_record_with_children_is_marked_and_a_job_is_left() -> None:
    made = plan(Batch().delete(conversation()), conversation())

    mark, job = made.writes.ops
    assert isinstance(mark, Update)
    assert isinstance(job, Put)
    assert [MARK] == [change.path.name for change in mark.changes]
    assert job.at == job_address(address(conversation()))
    assert {"table": "conversations", "key": ["u", "c"], "written": 7, "expired": False} == job.record["body"]
    assert made.jobs


def test_a_marked_record_is_not_marked_again_and_not_revived() -> None:
    at = address(conversation())
    marked = record(conversation(), **{MARK: 5})

    again = PLANNER.plan(Batch().delete(conversation()), {at: marked}, NOW)
    put = PLANNER.plan(Batch().put(conversation()), {at: marked}, NOW)
    patch = PLANNER.plan(Batch().patch(conversation(), add={"turns": 1}), {at: marked}, NOW)

    assert [("Check", "conversations", ("premise",))] == shape(again)
    assert [Unchanged(7), Unchanged(None)] == [guard.when for guard in put.writes.ops[0].guards]
    assert [Unchanged(7), Alive()] == [guard.when for guard in patch.writes.ops[0].guards]
    assert "absent" == put.writes.ops[0].guards[1].origin.role


def test_a_parent_that_children_may_hold_back_is_only_deleted_when_closed() -> None:
    at = address(Team(id="t"))
    held = PLANNER.plan(Batch().delete(Team.at("t")), {at: record(Team(id="t"))}, NOW)
    closed = PLANNER.plan(Batch().delete(Team.at("t")), {at: record(Team(id="t"), **{MARK: 6})}, NOW, closed=[at])

    assert Unchanged(None) == held.writes.ops[0].guards[-1].when
    assert [("Delete", "teams", ("premise",)), ("Delete", "palaver_system", ())] == shape(closed)
    for when, holds in ((F("name") == "", True), (F("name") == "x", False)):
        decided = PLANNER.plan(Batch().delete(Team.at("t"), when=when), {at: record(Team(id="t"), **{MARK: 6})}, NOW, closed=[at])
        assert holds == (("premise",) == tuple(guard.origin.role for guard in decided.writes.ops[0].guards))


def test_history_follows_every_write_with_the_revision_it_will_have() -> None:
    image = only(plan(Batch().patch(User.at("u"), set={"plan": "x"}), User(id="u", email="a")), "users-history")

    assert (key_text(("u",)), max(NOW, 8)) == image.at.key
    assert ("updated", "x") == (image.record["kind"], image.record["image"]["plan"])
    assert REVISION not in image.record["image"]


def test_a_token_is_one_more_op_that_must_be_absent() -> None:
    made = plan(Batch().put(Feedback(conversation_id="c", id="1", rater="r")), token="x", actor="me")

    op = made.writes.ops[1]
    assert isinstance(op, Put)
    assert (token_address(None, "x"), "token") == (op.at, op.guards[0].origin.role)
    assert NOW // 1_000_000 + 86_400 == op.record["expires"]
    assert ("me", op.at.key[1]) == made.writes.cause
    assert "x" not in op.at.key


def test_a_request_is_known_by_what_was_set_and_nothing_else() -> None:
    one = Batch().create(Conversation(user_id="u", id="c"))

    assert fingerprint(one) == fingerprint(Batch().create(Conversation(id="c", user_id="u")))
    for other in (
        Batch().create(Conversation(user_id="u", id="c", title="")),
        Batch().put(Conversation(user_id="u", id="c")),
        Batch().create(Conversation(user_id="u", id="d")),
        one + one,
        Batch(),
    ):
        assert fingerprint(one) != fingerprint(other)
    patched = Batch().patch(Team.at("t"), set={"name": "x"}, add={"a": 1})
    assert fingerprint(patched) == fingerprint(Batch().patch(Team(id="t"), add={"a": 1}, set={"name": "x"}))
    assert fingerprint(patched) != fingerprint(Batch().patch(Team.at("t"), set={"name": "x"}, add={"a": 1}, when=F("name") == "y"))


def test_conditions_become_guards_with_stored_names() -> None:
    made = plan(Batch().put(Feedback(conversation_id="c", id="1", rater="r"), when=F("stars") > 3))
    assert repr(Holds(F("stars") > 3)) == repr(made.writes.ops[0].guards[0].when)
    read = PLANNER.codec(Team).decode(record(Team(id="t")))
    same = plan(Batch().patch(read, set={"name": "x"}, when=unchanged(read)))
    assert [Alive(), Unchanged(7), Alive()] == [guard.when for guard in same.writes.ops[0].guards]


# --- expiry and objects ---------------------------------------------------------------------------------------------


def test_the_expiry_is_filled_in_and_slides() -> None:
    seconds = to_us(START) // 1_000_000
    assert seconds + 30 * 86_400 == only(plan(Batch().create(conversation())), "conversations").record["expires"]
    assert START + days(30) == getattr(plan(Batch().create(conversation())).made[0], "expires", None)
    slid = plan(Batch().patch(conversation(), set={"last_active": START + days(1)}))
    assert ["last_active", "expires"] == [change.path.name for change in slid.writes.ops[0].changes]  # type: ignore[union-attr]
    fixed = plan(Batch().patch(conversation(), set={"last_active": START, "expires": START + days(2)}))
    assert 2 == len(fixed.writes.ops[0].changes)  # type: ignore[union-attr]


def test_a_large_value_is_uploaded_and_guarded_against_its_removal() -> None:
    made = plan(Batch().create(message(context=big())))
    ((key, data),) = made.uploads

    check = next(op for op in made.writes.ops if op.at == blob_address(key))
    assert key.startswith("-/u/c/1/context.json/")
    assert isinstance(data, bytes)
    assert b'"big"' in data
    assert isinstance(check, Check)
    assert only(made, "messages").record["context"]["$blob"] == key
    assert () == plan(Batch().create(message(context={"a": 1}))).uploads


def test_objects_no_longer_referred_to_are_released() -> None:
    old, new = message(context=big("a")), message(context=big("b"))
    ((key, _),) = plan(Batch().create(old)).uploads

    assert (key,) == only(plan(Batch().put(new), old), "messages").released
    assert (key,) == only(plan(Batch().patch(old, set={"context": None}), old), "messages").released
    assert () == only(plan(Batch().put(old), old), "messages").released
    assert () == only(plan(Batch().patch(old, set={"intent": None}), old), "messages").released


# --- tenants and limits ---------------------------------------------------------------------------------------------


def test_a_tenant_comes_first_everywhere() -> None:
    planner = Planner(NOTES)
    note = Note(owner="a", person="p", id="1", slug="s", file=b"x" * 100)
    made = planner.plan(Batch().create(note), {}, NOW, tenant="a", token="x")
    table = Note.declared().table

    assert ("a", "p", "1") == made.writes.ops[0].at.key
    assert all("owner" == index.partition[0] for index in table.indexes)
    assert made.uploads[0][0].startswith("a/p/1/file/")
    assert str(made.writes.ops[1].at.key[1]).startswith("a/Note/by_slug/")
    assert token_address("a", "x") != token_address("b", "x")
    assert token_address("a", "x") in {op.at for op in made.writes.ops}
    for tenant in ("b", None):
        with pytest.raises(TenantMismatch):
            planner.plan(Batch().create(note), {}, NOW, tenant=tenant)
    with pytest.raises(TenantMismatch):
        planner.address(Note.at("p", "1"), None)


def test_limits_are_counted_after_expansion() -> None:
    def users(n: int) -> Batch:
        batch = Batch()
        for number in range(n):
            batch = batch.create(User(id=str(number), email=str(number)))
        return batch

    assert 99 == len(plan(users(33)).writes.ops)
    assert 100 == len(plan(users(33), token="x").writes.ops)
    with pytest.raises(BatchShape, match="102 ops"):
        plan(users(34))
    with pytest.raises(BatchShape, match="101 ops"):
        plan(users(33).put(Feedback(conversation_id="c", id="1", rater="r")))


def test_a_deletion_that_the_feed_shows_counts_as_two() -> None:
    def going(n: int) -> Batch:
        batch = Batch()
        for number in range(n):
            batch = batch.delete(Member.at("t", str(number)))
        return batch

    assert 50 == len(plan(going(50)).writes.ops)
    with pytest.raises(BatchShape, match="102 ops"):
        plan(going(51))


def test_one_write_per_record() -> None:
    for batch in (
        Batch().create(Team(id="t")).delete(Team.at("t")),
        Batch().create(Member(team_id="t", name="n")).check(Team.at("t")).put(Team(id="t")),
        Batch().create(User(id="u", email="a")).create(User(id="v", email="a")),
    ):
        with pytest.raises(BatchShape):
            plan(batch)
    with pytest.raises(Validation):
        plan(Batch().patch(Team.at("t")))
