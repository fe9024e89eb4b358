"""Two people with something in every store, every personal text of one of them holding a canary."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palaver.store import Store
from tests.lifecycle.app import Activity, Address, Conversation, Counter, Feedback, Message, Note, User

CANARY = "kanarienvogel"
DOOMED, OTHER = "u-doomed", "u-other"


def canary(where: str) -> str:
    return f"{CANARY}{where} sings"


async def write_person(store: Store, user: str, text: Any, *, conversations: int = 2, messages: int = 3) -> None:
    """Store a person with history, objects, search documents, claims, and words in others' records."""
    person = await store.create(User(user_id=user, email=text("email") + f"@{user}", name=text("name")))
    person = await store.patch(person, set={"home": Address(city=text("home"))})
    await store.patch(person, set={"name": text("othername")})
    for c in range(conversations):
        await store.create(Conversation(user_id=user, conversation_id=f"{user}-c{c}", title=text("title")))
        for m in range(messages):
            await write_message(store, user, user, f"{user}-c{c}", str(m * 2 + 1), text)
            await write_message(store, "u-assistant", user, f"{user}-c{c}", str(m * 2 + 2), lambda where: f"You said {text(where)}")
    await store.put(Feedback(message_id="1", user_id=user, owner_id=OTHER, follow_up=text("followup"), snapshot="their words"))
    await store.put(Feedback(message_id="2", user_id=f"rater-of-{user}", owner_id=user, follow_up="good", snapshot=text("snapshot")))
    for n in range(2):
        await store.create(Note(note_id=f"{user}-{n}", user_id=user, text=text("note")))
    await store.put(Activity(user_id=user))


async def write_message(store: Store, user: str, owner: str, conversation: str, number: str, text: Any) -> None:
    context = {"prompt": text("prompt") + " long enough to lie in an object by itself, away from the record"}
    await store.create(
        Message(conversation_id=conversation, message_id=number, owner_id=owner, user_id=user, content=text("content"), context=context)
    )


async def write_both(store: Store) -> None:
    await write_person(store, DOOMED, canary)
    await write_person(store, OTHER, lambda where: f"harmless {where}")
    await store.create(Counter(name="visits", n=7))
    await store.settle(10)


def found_in(folder: Path, text: str = CANARY) -> dict[str, int]:
    """Search every file below a folder, compressed ones also unpacked, for a text in any case; return the hits by file."""
    wanted = text.encode()
    hits = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            count = sum(each.lower().count(wanted) for each in (data, *_unpacked(data)))
            if wanted in file.name.encode() or count:
                hits[str(file.relative_to(folder))] = count
    return hits


def _unpacked(data: bytes) -> Iterator[bytes]:
    if data[:2] == b"\x1f\x8b":
        try:
            yield gzip.decompress(data)
        except (OSError, zlib.error):
            return
