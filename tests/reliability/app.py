"""The entities the proofs of safety write: a cascade, unique names, large values, full text, pairs and sums."""

from __future__ import annotations

from typing import Annotated

from palaver.entity import Entity
from palaver.keys import Index, Key, Ref, Unique
from palaver.markers import Blob, Personal, Secret, Subject
from palaver.schema import Schema, Search, Source

# Values of records start with it, so that any text they leak into can be recognized.
CANARY = "canary-7f3a"


class Owner(Entity, table="owners"):
    worker: int
    name: str
    handle: str
    n: int = 0
    key = Key("worker", sort="name")
    by_handle = Unique("handle")


class Note(Entity, table="notes"):
    worker: int
    owner: Annotated[str, Subject()]
    note_id: str
    text: Annotated[str, Personal()] = ""
    code: Annotated[str | None, Secret()] = None
    n: int = 0
    payload: Annotated[dict[str, str] | None, Blob("{worker}/{owner}/{note_id}", inline=64)] = None
    key = Key("worker", "owner", sort="note_id")
    by_worker = Index("worker", sort="note_id")
    of_owner = Ref("worker", "owner", to=Owner, on_delete="cascade")


class Left(Entity, table="lefts"):
    worker: int
    number: int
    key = Key("worker", sort="number")


class Right(Entity, table="rights"):
    worker: int
    number: int
    key = Key("worker", sort="number")


class Account(Entity, table="accounts"):
    worker: int
    name: str
    amount: int = 0
    key = Key("worker", sort="name")


SCHEMA = Schema(
    "reliability",
    [Owner, Note, Left, Right, Account],
    searches=[Search("notes", Source(Note, text=("text",), filters=("worker",)))],
)
