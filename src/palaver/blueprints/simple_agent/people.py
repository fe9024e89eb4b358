"""Who is who: identities on channels, the user behind them, linking, unlinking, and two users who turn out to be one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from palaver.batch import Batch, unchanged
from palaver.blueprints.simple_agent import patterns
from palaver.blueprints.simple_agent.schema import DEFAULT_TENANT, Conversation, Identity, User
from palaver.errors import AlreadyExists, ConditionFailed, Conflict, Duplicate, NotFound, NotProvisioned, TransactionCancelled, Validation
from palaver.expr import F
from palaver.ids import Ids
from palaver.lifecycle.archive import Archive
from palaver.query import Query
from palaver.store import Store
from palaver.turns.refusing import refusing

ATTEMPTS = 20
OWN = F("merged_into").missing()
"""A user nobody is merging into another."""
CHANGEABLE = frozenset({"preferred_model", "metadata"})


@dataclass
class Merged:
    """What moved from one user to another; asked again, nothing does."""

    identities: int = 0
    conversations: int = 0
    messages: int = 0
    calls: int = 0
    ratings: int = 0
    days: int = 0
    flags: int = 0
    finished: bool = False


class People:
    """The users of a tenant and who they are on each channel. Another tenant's user is nobody here."""

    def __init__(self, store: Store, ids: Ids, *, tenant: str) -> None:
        self._store, self._ids, self._tenant = store, ids, tenant
        self._ours = F("tenant") == tenant

    # --- finding ------------------------------------------------------------------------------------------------------

    async def resolve(self, channel_type: str, channel_user_id: str, *, username: str | None = None) -> User:
        """Return the user somebody on a channel is, made with their first message; eight at once make one."""
        at = Identity.at(self._tenant, channel_type, channel_user_id)
        for _ in range(ATTEMPTS):
            identity = await self._store.find(at)
            if identity is None:
                user = await self._made(channel_type, channel_user_id, username)
            else:
                user = await self.following(identity.user_id)
            if user is not None and (identity is None or user.user_id == identity.user_id or await self._moved(identity, user)):
                return user
        raise Conflict("The user kept being made and removed.", hint="Try again after a random pause.")

    async def _moved(self, identity: Identity, user: User) -> bool:
        """Do for one identity what the merge of its user will do, or was cut off before doing: nobody waits for it."""
        try:
            await self._store.patch(identity, set={"user_id": user.user_id}, when=F("user_id") == identity.user_id)
        except ConditionFailed:
            return False
        return True

    async def following(self, user_id: str) -> User | None:
        """Return a user by id, or whom they are being merged into; None where there is neither."""
        seen: set[str] = set()
        found = await self.find(user_id)
        while found is not None and found.merged_into is not None and found.user_id not in seen:
            seen.add(found.user_id)
            found = await self.find(found.merged_into) or found
        return found

    async def _made(self, channel_type: str, channel_user_id: str, username: str | None) -> User | None:
        """Return a new user with their identity, None where somebody else made it first."""
        now = self._store.clock.now()
        with refusing():
            user = User(user_id=self._ids.new(), tenant=self._tenant, created_at=now, updated_at=now, last_seen=now)
            identity = self._identity(user.user_id, channel_type, channel_user_id, username)
        try:
            made = await self._store.write(Batch().create(user).create(identity))
        except TransactionCancelled as error:
            if isinstance(error.reasons[1], AlreadyExists):
                return None
            raise
        assert isinstance(made[0], User)
        return made[0]

    def _identity(self, user_id: str, channel_type: str, channel_user_id: str, username: str | None) -> Identity:
        return Identity(
            tenant=self._tenant,
            channel_type=channel_type,
            channel_user_id=channel_user_id,
            user_id=user_id,
            username=username,
            linked_at=self._store.clock.now(),
        )

    async def find(self, user_id: str) -> User | None:
        """Return a user, None where the tenant has none of this id."""
        found = await self._store.find(User.at(user_id))
        return found if found is not None and found.tenant == self._tenant else None

    async def get(self, user_id: str) -> User:
        """Return a user; raise NotFound."""
        found = await self.find(user_id)
        if found is None:
            raise nobody()
        return found

    async def are_others(self, user_id: str, *, archived: bool = False) -> bool:
        """Say whether somebody is another tenant's, as far as the records know; those nothing is left of, as the archives do."""
        whose = await self._tenant_of(user_id)
        if whose is None and archived:
            whose = await self._archived_tenant_of(user_id)
        return whose not in (None, self._tenant)

    async def _tenant_of(self, user_id: str) -> str | None:
        """Return whose somebody is: by their row, and where that is gone by what is left of them; None where nothing is."""
        user = await self._store.find(User.at(user_id))
        if user is not None:
            return user.tenant
        # Whoever is being erased loses the row first, and asking again has to finish that; ratings outlive who was purged.
        left = await self._all(patterns.identities_of_user(user_id).limit(1))
        left = left or await self._all(patterns.conversations_of_user(user_id).limit(1))
        left = left or await self._all(patterns.messages_of_user(user_id).limit(1))
        left = left or await self._all(patterns.feedback_of_user(user_id).limit(1))
        return left[0].tenant if left else None

    async def _archived_tenant_of(self, user_id: str) -> str | None:
        """Return whose somebody was, by any archived record that says so; None where nothing is archived about them.

        Where none says so, who has no tenants may take them for his own. Raises NotProvisioned to any other.
        """
        found = False
        async with aclosing(Archive(self._store).about(user_id)) as lines:
            async for _, record in lines:
                if "tenant" in record:
                    return str(record["tenant"])
                found = True
        if found and self._tenant != DEFAULT_TENANT:
            raise NotProvisioned(
                "What is archived about this person does not say of which tenant they were.",
                hint="Archive users or messages beside it, or erase them with an agent that is given no tenant.",
            )
        return DEFAULT_TENANT if found else None

    async def identities(self, user_id: str) -> list[Identity]:
        """Return who a user is on each channel."""
        return await self._all(patterns.identities_of_user(user_id).filter(self._ours))

    # --- changing -----------------------------------------------------------------------------------------------------

    async def prefer(self, user_id: str, model: str | None) -> User:
        """Set the model a user prefers, None for none; raise NotFound where there is no such user."""
        return await self.change(user_id, preferred_model=model)

    async def change(self, user_id: str, **changes: Any) -> User:
        """Change fields of a user: `preferred_model`, `metadata`; raise NotFound where there is no such user."""
        if not changes.keys() <= CHANGEABLE:
            raise Validation("Of a user the preferred model and the metadata are changed here.", entity="User")
        given = {**changes, "updated_at": self._store.clock.now()}
        kept = {name: value for name, value in given.items() if value is not None}
        try:
            gone = [name for name in given if name not in kept]
            return await self._store.patch(User.at(user_id), set=kept, remove=gone, when=self._ours)
        except ConditionFailed:
            raise nobody() from None

    async def link(self, user_id: str, channel_type: str, channel_user_id: str, *, username: str | None = None) -> Identity:
        """Make somebody on another channel the same user, so that both have one history; doing it twice is doing it once.

        Raises Duplicate where they are another user already: `merge` those two. Raises NotFound for no such user.
        """
        with refusing():
            identity = self._identity(user_id, channel_type, channel_user_id, username)
        try:
            written = await self._store.write(Batch().create(identity).check(User.at(user_id), when=OWN & self._ours))
        except TransactionCancelled as error:
            held = await self._store.find(identity.address)
            if held is not None and held.user_id == user_id:
                return held
            if held is not None:
                raise Duplicate("Somebody else is this on that channel.", hint="Merge the two users.", entity="Identity") from None
            if any(isinstance(reason, ConditionFailed) for reason in error.reasons):
                raise nobody() from None
            raise
        assert isinstance(written[0], Identity)
        return written[0]

    async def unlink(self, channel_type: str, channel_user_id: str) -> None:
        """Take a channel off its user; what was said there stays theirs. Who comes from there next is a new user.

        One that is not linked is no error. Raises Validation for the last one: nothing would lead to the user any more.
        """
        at = Identity.at(self._tenant, channel_type, channel_user_id)
        for _ in range(ATTEMPTS):
            identity = await self._store.find(at)
            if identity is None:
                return
            user = await self.find(identity.user_id)
            if user is None or len(await self.identities(identity.user_id)) < 2:
                raise Validation("This is the user's only channel.", hint="Erase the user instead.", entity="Identity")
            # Two unlinked at once would each see the other: the user's revision lets one of them through.
            seen = Batch().patch(user, set={"updated_at": self._store.clock.now()}, when=unchanged(user))
            try:
                await self._store.write(seen.delete(at, when=F("user_id") == identity.user_id))
            except TransactionCancelled:
                continue
            return
        raise Conflict("The user kept being changed.", hint="Try again after a random pause.")

    # --- merging ------------------------------------------------------------------------------------------------------

    async def merge(self, user_id: str, *, into: str) -> Merged:
        """Make one user out of two: identities, conversations, messages, calls and ratings of the first become the other's.

        Of two active conversations the later one stays active. Cut off anywhere it is finished by asking again, and
        asked again when it is finished it moves nothing. Nothing new is begun for the first user meanwhile, and their
        sessions end.
        Raises NotFound where `into` is nobody, and Conflict where it is itself being merged.
        """
        if user_id == into:
            raise Validation("A user is not merged with themselves.", entity="User")
        keep = await self.get(into)
        gone = await self.find(user_id)
        if gone is None:
            return Merged(finished=True)
        closing = Batch().patch(gone, set={"merged_into": into}, when=OWN | (F("merged_into") == into)).check(keep, when=OWN)
        try:
            await self._store.write(closing)
        except TransactionCancelled as error:
            if any(isinstance(reason, ConditionFailed) for reason in error.reasons):
                raise Conflict("One of the two is being merged with somebody else.", hint="Finish that first.", entity="User") from None
            raise
        return await _Merge(self._store, user_id, into).run()

    async def _all(self, query: Query[Any]) -> list[Any]:
        return [found async for found in self._store.query(query)]


class _Merge:
    """One merge. Each step looks for what is left to move, so any of them may be cut off and begun again."""

    def __init__(self, store: Store, gone: str, into: str) -> None:
        self._store, self._gone, self._into = store, gone, into
        self._merged = Merged()

    async def run(self) -> Merged:
        out = self._merged
        out.identities = await self._moved(patterns.identities_of_user(self._gone))
        async for conversation in self._store.query(patterns.conversations_of_user(self._gone)):
            out.conversations += await self._conversation(conversation)
            out.messages += await self._moved(patterns.messages_of_conversation(conversation.conversation_id))
        out.messages += await self._moved(patterns.messages_of_user(self._gone))
        await self._moved(patterns.turns_of_user(self._gone))
        out.calls = await self._moved(patterns.model_calls_of_user(self._gone))
        out.ratings = await self._rekeyed(patterns.feedback_of_user(self._gone), "user_id")
        out.days = await self._rekeyed(patterns.days_of_user(self._gone), "user_id")
        out.flags = await self._rekeyed(patterns.exposures_of_user(self._gone), "user")
        out.flags += await self._rekeyed(patterns.flags_of_user(self._gone), "user", "target")
        # What somebody may do has changed: they log in again.
        for session in [each async for each in self._store.query(patterns.sessions_of_user(self._gone))]:
            await self._store.delete(session)
        out.finished = await self._finish()
        return out

    async def _moved(self, query: Query[Any]) -> int:
        """Give records that name the user among their fields to the other one."""
        found = [each async for each in self._store.query(query) if each.user_id == self._gone]
        moved = 0
        for each in found:
            try:
                await self._store.patch(each, set={"user_id": self._into}, when=F("user_id") == self._gone)
            except ConditionFailed:
                # It was deleted, unlinked or moved meanwhile.
                continue
            moved += 1
        return moved

    async def _conversation(self, conversation: Conversation) -> bool:
        for _ in range(ATTEMPTS):
            current = await self._store.find(conversation.address)
            if current is None or current.user_id != self._gone:
                return False
            change: dict[str, Any] = {"user_id": self._into}
            other = await self._store.find(Conversation.one_active(self._into)) if current.is_active else None
            try:
                if other is not None and other.last_activity < current.last_activity:
                    await self._store.patch(other, set=over(other, self._store.clock.now()), when=unchanged(other))
                elif other is not None:
                    change |= over(current, self._store.clock.now())
                await self._store.patch(current, set=change, when=unchanged(current))
            except ConditionFailed:
                # A message came in, or another conversation began: look again.
                continue
            return True
        raise Conflict("The user's conversations kept changing.", hint="Merge again: it goes on where it stopped.")

    async def _rekeyed(self, query: Query[Any], *fields: str) -> int:
        """Write records that have the user in their key anew for the other one, whose own stay as they are."""
        moved = 0
        for each in [found async for found in self._store.query(query)]:
            theirs = each.model_copy(update=dict.fromkeys(fields, self._into))
            try:
                await self._store.write(Batch().create(theirs).delete(each))
            except TransactionCancelled as error:
                if not isinstance(error.reasons[0], ConditionFailed):
                    raise
                await self._store.delete(each)
            moved += 1
        return moved

    async def _finish(self) -> bool:
        """Take over what the row itself says and remove it, in one commit; False where somebody finished it before."""
        for _ in range(ATTEMPTS):
            gone, keep = await self._store.find(User.at(self._gone)), await self._store.find(User.at(self._into))
            if gone is None or keep is None:
                return False
            said: Mapping[str, Any] = {
                "preferred_model": keep.preferred_model or gone.preferred_model,
                "metadata": {**gone.metadata, **keep.metadata},
                "created_at": min(keep.created_at, gone.created_at),
                "last_seen": max(keep.last_seen, gone.last_seen),
                "updated_at": self._store.clock.now(),
            }
            given = {name: value for name, value in said.items() if value is not None}
            try:
                batch = Batch().patch(keep, set=given, when=unchanged(keep)).delete(gone, when=unchanged(gone))
                await self._store.write(batch)
            except TransactionCancelled:
                continue
            return True
        raise Conflict("The users kept being changed.", hint="Merge again: it goes on where it stopped.")


def nobody() -> NotFound:
    """Return the error for a user who is not there, or is another tenant's."""
    return NotFound("There is no such user.", hint="They may have been erased or merged.", entity="User")


def over(conversation: Conversation, now: datetime) -> dict[str, Any]:
    """Return what ends a conversation."""
    return {"is_active": False, "ended_at": max(now, conversation.started_at)}
