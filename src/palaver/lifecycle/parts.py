"""What an archive is made of: manifests, parts, and notes of whom a part is about."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from typing import Any

from palaver.blobpath import ARCHIVE, segment
from palaver.errors import Corruption
from palaver.lifecycle.encoding import line
from palaver.store import Store

FORMAT = 1
OBJECTS = "objects/"
"""Below the folder of a day: its large values."""


@dataclass(frozen=True)
class Part:
    """One file of an archive: where it lies, what is in it, and whom it is about, as hashes of 16 digits.

    `objects`: the hashes of the large values its records name, which lie beside it. `replaces`: the part it was made from
    when persons were taken out before the archive was finished.
    """

    key: str
    number: int
    records: int
    bytes: int
    sha256: str
    whom: Sequence[str] = ()
    after: Sequence[Any] | None = None
    objects: Sequence[str] = ()
    replaces: str = ""

    @property
    def note(self) -> str:
        """Where the note about this part lies."""
        return self.key.removesuffix(".jsonl.gz") + ".json"


@dataclass(frozen=True)
class Archived:
    """One entity of an archive. `about` names the fields whose values are in the notes of its parts."""

    table: str
    records: int
    about: Sequence[str]
    left_out: Sequence[str]
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Manifest:
    """What an archive of one day holds; it exists once all of it does. `generation` grows when parts are rewritten."""

    day: date
    schema: str
    fingerprint: str
    made_us: int
    entities: Mapping[str, Archived]
    generation: int = 0

    @property
    def records(self) -> int:
        return sum(archived.records for archived in self.entities.values())


def root(store: Store) -> str:
    """Return the prefix of everything a store archives."""
    return f"{ARCHIVE}/tenant={segment(str(store.tenant))}/" if store.schema.tenanted else f"{ARCHIVE}/"


@dataclass
class PartWriter:
    """A part being written: compressed as it grows."""

    raw: int = 0
    records: int = 0
    whom: set[str] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)
    _pieces: list[bytes] = field(default_factory=list)
    _deflate: Any = field(default_factory=lambda: zlib.compressobj(6, wbits=31))

    def add(self, record: Mapping[str, Any], whom: Iterable[str] = ()) -> None:
        text = line(record)
        self.raw += len(text)
        self.records += 1
        self.whom.update(whom)
        self.objects.update(objects_of(record))
        if piece := self._deflate.compress(text):
            self._pieces.append(piece)

    def finish(self) -> bytes:
        return b"".join([*self._pieces, self._deflate.flush()])


def named(digest: str, size: int) -> dict[str, Any]:
    """Return what stands for a large value in an archived record: its file beside the parts, by the hash of its bytes."""
    return {"$object": OBJECTS + digest, "bytes": size}


def objects_of(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the hashes of the large values an archived record names."""
    for value in record.values():
        if isinstance(value, dict) and str(value.get("$object", "")).startswith(OBJECTS):
            yield value["$object"].removeprefix(OBJECTS)


def whom(value: object) -> str:
    """Return what stands for a person in a note."""
    return sha256(str(value).encode()).hexdigest()[:16]


def part_of(body: Mapping[str, Any]) -> Part:
    """Return the part a note describes."""
    return Part(**body)


def manifest_of(body: Mapping[str, Any]) -> Manifest:
    """Return a manifest as it was written. Raises Corruption for a format of a later program."""
    if body["format"] != FORMAT:
        raise Corruption("The manifest of an archive has a format this program does not know.", hint="Update the program.")
    entities = {
        name: Archived(**{**archived, "parts": [part_of(part) for part in archived["parts"]]})
        for name, archived in body["entities"].items()
    }
    return Manifest(date.fromisoformat(body["day"]), body["schema"], body["fingerprint"], body["made_us"], entities, body["generation"])
