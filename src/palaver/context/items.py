"""A message as an item of a window, and back: its place in the order, its tokens, and its record as it is stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Generic, TypeAlias

from typing_extensions import TypeVar

from palaver.caching import Item
from palaver.codec import EntityCodec
from palaver.entity import Entity
from palaver.errors import ConfigError
from palaver.expr import Condition, evaluate
from palaver.keys import AccessPath
from palaver.ops import REVISION
from palaver.snapshot import form
from palaver.stored_json import loads, packed
from palaver.values import KeyPart, Record

E = TypeVar("E", bound=Entity)
T = TypeVar("T")
Tokens: TypeAlias = Callable[[E], int | None]
_BYTES_A_TOKEN, _TOKENS_A_MESSAGE = 4, 4
_LOWEST = 2**63
TOKENS: Callable[[Item], int] = attrgetter("tokens")
_RESERVED = re.compile("[\1\2]")


def estimated_tokens(message: Entity) -> int:
    """Return about how many tokens a message takes: a quarter of the UTF-8 bytes of its texts, and four.

    Its texts are the fields of free text that are part of neither key nor index. Too many for English prose, and too few for
    some scripts: count with the model's own tokenizer where it matters.
    """
    declared = type(message).declared()
    parts = {part.path for path in declared.access.values() for part in path.parts}
    plain = (name for name, spec in declared.fields.items() if spec.kind.column == "text" and spec.kind.decode is None and not spec.check)
    values = (message.__dict__[name] for name in plain if name not in parts)
    texts = sum(len(value.encode("utf-8", "surrogatepass")) for value in values if type(value) is str)
    return -(-texts // _BYTES_A_TOKEN) + _TOKENS_A_MESSAGE


def within(items: Sequence[T], most: int, budget: int | None, tokens: Callable[[T], int]) -> tuple[Sequence[T], bool]:
    """Return the newest items within both bounds, the newest of all in any case, and whether it was the budget that ended them."""
    newest = items[-most:]
    if budget is not None:
        left = budget
        for place in range(len(newest) - 1, -1, -1):
            left -= tokens(newest[place])
            if left < 0:
                return newest[min(place + 1, len(newest) - 1) :], True
    return newest, False


class Items(Generic[E]):
    """The items of one entity's windows. Each names the shape of the record in it, so that no program reads another's wrongly."""

    def __init__(self, codec: EntityCodec, head: str, tokens: Tokens[E] | None, estimate: Callable[[E], int], where: Condition | None):
        declared = codec.declared
        for spec in declared.fields.values():
            if spec.secret:
                raise ConfigError(
                    f"{declared.name}.{spec.name} is secret, and nothing secret goes into a cache.",
                    hint="Keep the secret in an entity of its own.",
                    entity=declared.name,
                    field=spec.name,
                )
        self._codec, self._tokens, self._estimate = codec, tokens, estimate
        self.path: AccessPath = declared.access["key"]
        if not self.path.sort:
            raise ConfigError(
                f"The key of {declared.name} has no sort part, so its records are in no conversation and in no order.",
                hint='Write key = Key("conversation_id", sort="message_id").',
                entity=declared.name,
            )
        self.condition = None if where is None else declared.entity.bind(where)
        self._head = (head, declared.table.name, repr(self.condition))
        shape = [(spec.stored, form(spec.kind), spec.optional) for spec in declared.fields.values()]
        self._shape = blake2b(repr(shape).encode(), digest_size=4).hexdigest().encode()

    def key(self, tenant: str | None, partition: tuple[KeyPart, ...]) -> str:
        """Return the name of a conversation's window: a hash, since a conversation's identifier may say whose it is."""
        return blake2b(repr((self._head, tenant, partition)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def id(self, sort: Sequence[KeyPart]) -> str:
        """Return a text of the sort values whose UTF-8 bytes are in the order of the records."""
        if len(sort) == 1 and isinstance(sort[0], str):
            return sort[0]
        *first, last = (_ordered(part) for part in sort)
        return "".join(_RESERVED.sub("\2\\g<0>", text) + "\1" for text in first) + last

    def item(self, record: Record, message: E) -> Item:
        """Return the item of a stored record, and of the message it stands for."""
        counted = None if self._tokens is None else self._tokens(message)
        id = self.id([record[part.column] for part in self.path.sort])  # type: ignore[misc]
        return Item(id, self._estimate(message) if counted is None else counted, self._shape + packed(record))

    def of(self, message: E, now_us: int, tenant: str | None) -> Item | None:
        """Return the item of a message as the store returned it; None where the window leaves it out."""
        record = self._codec.encode(message, now_us, tenant).record
        record[REVISION] = message.revision
        return self.item(record, message) if self.matches(record) else None

    def matches(self, record: Record) -> bool:
        return self.condition is None or evaluate(self.condition, record)

    def records(self, items: Sequence[Item]) -> list[Record] | None:
        """Return the records of items; None where one of them has another shape, or is none."""
        shape, skip = self._shape, len(self._shape)
        texts = [item.data[skip:] for item in items if item.data.startswith(shape)]
        if len(texts) < len(items):
            return None
        try:
            # Read together: a call of the parser for each would cost as much again.
            records: list[Record] = loads((b"[%b]" % b",".join(texts)).decode())
        except ValueError:
            return None
        return records if len(records) == len(items) and all(type(record) is dict for record in records) else None


def _ordered(part: KeyPart) -> str:
    match part:
        case str():
            return part
        case bytes():
            return part.hex()
    return f"{part + _LOWEST:016x}"
