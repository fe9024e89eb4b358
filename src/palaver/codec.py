"""Entity ↔ record, compiled per entity.

Encoding checks every value against its column, meters the record, and computes shadow columns. Decoding constructs
without validating, ignores attributes it does not know, and leaves large values as `BlobRef` for the store to fetch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

from palaver.clock import from_us
from palaver.declared import Declared, FieldSpec, shadow_values, shard_of
from palaver.entity import E, Entity
from palaver.errors import ConfigError, ItemTooLarge, KeyTooLong, Validation
from palaver.fields import LARGE, NEW, SET_EXTRA, SET_NAMES, SET_PRIVATE, SET_VALUES, build
from palaver.large_object import LargeObject
from palaver.markers import Blob, Expires
from palaver.ops import REVISION, Change_, Set
from palaver.record_writing import FAULTS, compile_check, compile_key, compile_writer, scalar_size, types_of, unencodable, unfit
from palaver.sealing import VARIABLE, Sealed, Sealer, place_of
from palaver.stored_json import loads, packed, settled
from palaver.values import MAX_ENTRY, MAX_INT, MAX_RECORD, MIN_INT, KeyPart, Record, Value, record_size

NO_ELEMENTS: frozenset[str] = frozenset()
BLOB_MARK = "$blob"
TEN_YEARS_S = 10 * 366 * 86_400


class BlobRef(NamedTuple):
    """Where a large value lies: its object's key, the bytes there, and how they are encoded."""

    key: str
    size: int
    codec: str

    def stored(self) -> dict[str, Value]:
        return {BLOB_MARK: self.key, "size": self.size, "codec": self.codec}


def blob_ref(value: Any) -> BlobRef | None:
    """Return the reference a stored value is, or None when it is the value itself."""
    if type(value) is dict and BLOB_MARK in value:
        return BlobRef(value[BLOB_MARK], value["size"], value["codec"])
    return None


class Encoded(NamedTuple):
    """A record ready to be stored, a bound on its metered size (at most about twice it), and the objects to upload before it."""

    record: Record
    size: int
    uploads: tuple[tuple[str, bytes | LargeObject], ...]


class EntityCodec:
    """The codec of one entity; made once, when the schema is built."""

    def __init__(self, declared: Declared, retention: Mapping[str, timedelta | None] | None = None) -> None:
        self.declared = declared
        self.name = declared.name
        self.sealer: Sealer | None = None
        self.large = [spec for spec in declared.blobs if spec.kind is LARGE]
        apart = {spec.name for spec in (*declared.blobs, *declared.secrets)}
        self._put_fields = compile_writer(declared.name, [spec for spec in declared.fields.values() if spec.name not in apart])
        self._values, build_plain = _readers(declared, set(declared.fields))
        #: Returns the instance a record stands for. Raises Unsealable for a secret that cannot be opened.
        self.decode: Callable[[Mapping[str, Any]], Any] = self._decode if build_plain is None else build_plain
        self.table = declared.table.name
        self._key = declared.table.key
        #: The values of a record's key, in order.
        self.key_of = compile_key(self._key)
        self._check_parts = compile_check(_checked_parts(declared))
        self._names = set(declared.fields)
        self._shadowed = bool(declared.shadows)
        self._fixed_size = 8 + len(REVISION)
        rule: Expires | None = declared.expires.marker(Expires) if declared.expires else None
        if rule is not None and retention is not None and declared.name in retention:
            rule = replace(rule, after=retention[declared.name])
        self.rule = rule
        self._expires = (declared.expires.name, declared.expires.stored, rule) if declared.expires and rule else None
        # Most entities are nothing but fields, and need not be asked for anything else with each record.
        self._bare_fields = not (self._expires or declared.shadows or declared.sharded or apart)

    # --- writing ----------------------------------------------------------------------------------------------------

    def encode(self, entity: Entity, now_us: int, tenant: str | None) -> Encoded:
        """Return the record of an instance. Raises Validation with the field at fault, never with its value."""
        record: Record = {}
        total = self._fixed_size + self._put_fields(entity.__dict__, record)
        uploads: tuple[tuple[str, bytes | LargeObject], ...] = ()
        if self._bare_fields:
            self._check_parts(record)
        else:
            total += self._finish(entity, record, now_us, tenant)
            uploads, apart = self._put_apart(entity, record, tenant)
            total += apart
        if total > MAX_ENTRY:
            total = self._within(total, record)
        return Encoded(record, total, uploads)

    def _put_apart(self, entity: Entity, record: Record, tenant: str | None) -> tuple[tuple[tuple[str, bytes | LargeObject], ...], int]:
        """Put in what may lie in objects and what is sealed; return the objects to upload and a bound on the size."""
        total = 0
        uploads: tuple[tuple[str, bytes | LargeObject], ...] = ()
        if self.declared.blobs:
            uploads = self._split_blobs(entity, record, tenant)
            total += sum(
                len(spec.stored) + settled(record[spec.stored], self.name)[1] for spec in self.declared.blobs if spec.stored in record
            )
        for spec in self.declared.secrets:
            value = entity.__dict__[spec.name]
            # An empty set is stored as its absence here too.
            if value is not None and (value or not _is_set(spec)):
                sealed = record[spec.stored] = value.data if type(value) is Sealed else self.sealed(spec, self._bare(spec, value), record)
                total += len(spec.stored) + len(sealed)
        return uploads, total

    def _within(self, total: int, record: Record) -> int:
        """Check a record that is not small against the limits; return a bound on its size."""
        if total > MAX_RECORD:
            total = record_size(record, self.name) + self._fixed_size
            if total > MAX_RECORD:
                raise ItemTooLarge(
                    f"A {self.name} would take {total:,} bytes; the most is {MAX_RECORD:,}.",
                    hint="Mark its large field with Blob(...), or split the record.",
                    entity=self.name,
                )
        if total > MAX_ENTRY:
            self.check_entries(record)
        return total

    def _encoded(self, name: str, encode: Callable[[Any], Any], value: Any) -> Any:
        try:
            return encode(value)
        except FAULTS:
            raise unencodable(self.name, name, value) from None

    def _finish(self, entity: Entity, record: Record, now_us: int, tenant: str | None) -> int:
        """Fill in the expiry, the shadows, the shards; check the key."""
        declared = self.declared
        added = 0
        if self._expires is not None:
            added += self._expire(entity, record, now_us)
        if self._shadowed:
            shadows = shadow_values(declared, entity)
            record.update(shadows)
            added += sum(len(name) + (len(part) if type(part) is str else 8) for name, part in shadows.items())
        self._check_parts(record)
        if declared.sharded:
            key = self.key_of(record)
            for path in declared.sharded:
                record[path.shard_column] = shard_of(key, path.shards)
                added += 8
        return added

    def _expire(self, entity: Entity, record: Record, now_us: int) -> int:
        _, stored, rule = self._expires  # type: ignore[misc]
        if stored not in record and rule.after is not None:
            start = entity.__dict__.get(rule.of) if rule.of else from_us(now_us)
            if start is not None:
                record[stored] = expiry_seconds(start, rule)
        expires = record.get(stored)
        if expires is None:
            return 0
        self.check_expiry(expires, now_us)  # type: ignore[arg-type]
        return len(stored) + 6

    def check_expiry(self, seconds: int, now_us: int) -> None:
        """Raise Validation for an expiry nobody means."""
        if seconds > now_us // 1_000_000 + TEN_YEARS_S:
            name = self._expires[0]  # type: ignore[index]
            raise Validation(
                f"{self.name}.{name} is more than ten years ahead.",
                hint="An expiry is in seconds, not milliseconds.",
                entity=self.name,
                field=name,
            )

    def check_entries(self, record: Mapping[str, Value]) -> None:
        """Raise KeyTooLong when the key, or an index entry with the key, takes over 2,600 bytes."""
        base = sum(_length(record.get(name)) for name in self._key)
        for index in self.declared.table.indexes:
            entry = base + sum(_length(record.get(name)) for name in index.partition + index.sort)
            if entry > MAX_ENTRY:
                raise KeyTooLong(
                    f"An entry of {self.name}'s index {index.name} takes {entry:,} bytes with its key; the most is {MAX_ENTRY:,}.",
                    entity=self.name,
                    index=index.name,
                )
        if base > MAX_ENTRY:
            raise KeyTooLong(f"The key of {self.name} takes {base:,} bytes; the most is {MAX_ENTRY:,}.", entity=self.name)

    # --- blobs ------------------------------------------------------------------------------------------------------

    def _split_blobs(self, entity: Entity, record: Record, tenant: str | None) -> tuple[tuple[str, bytes | LargeObject], ...]:
        from palaver.blobpath import blob_key

        uploads: list[tuple[str, bytes | LargeObject]] = []
        for spec in self.declared.blobs:
            value = entity.__dict__[spec.name]
            if value is None:
                continue
            marker: Blob = spec.marker(Blob)
            if spec.kind is LARGE:
                if type(value) is not LargeObject:
                    raise unfit(self.name, spec.name, value)
                key = value.key or blob_key(self.declared, marker, entity, value.sha256, tenant)
                record[spec.stored] = BlobRef(key, value.size, "bytes").stored()
                if value.key is None:
                    uploads.append((key, value))
                continue
            if isinstance(value, BlobRef):
                record[spec.stored] = value.stored()
                continue
            plain = value if spec.kind.encode is None else self._encoded(spec.name, spec.kind.encode, value)
            if type(plain) is bytes:
                data, codec = plain, "bytes"
            else:
                plain, _ = settled(plain, f"{self.name}.{spec.name}")
                data, codec = packed(plain), "json"
            # A value that looks like a reference is never stored where it would be taken for one.
            if len(data) <= marker.inline and not (type(plain) is dict and BLOB_MARK in plain):
                record[spec.stored] = plain
            else:
                key = blob_key(self.declared, marker, entity, sha256(data).hexdigest(), tenant)
                record[spec.stored] = BlobRef(key, len(data), codec).stored()
                uploads.append((key, data))
        return tuple(uploads)

    def filled(self, entity: E, record: Record) -> E:
        """Return an instance that becomes this record, with its computed expiry, and with large objects as they are stored."""
        spec = self.declared.expires
        added: dict[str, Any] = {spec.name: _large(record[spec.stored]) for spec in self.large if spec.stored in record}
        if spec is not None and entity.__dict__[spec.name] is None and record.get(spec.stored) is not None:
            assert spec.kind.decode is not None
            added[spec.name] = spec.kind.decode(record[spec.stored])
        return entity.model_copy(update=added) if added else entity

    # --- secrets ----------------------------------------------------------------------------------------------------

    def _bare(self, spec: FieldSpec, value: Any) -> Value:
        """Return a secret as it would be stored if it were none, checked as such."""
        kind = spec.kind.sealed
        assert kind is not None
        if kind.encode is not None:
            value = self._encoded(spec.name, kind.encode, value)
        types = types_of(kind)
        if types is not None and type(value) not in types:
            raise unfit(self.name, spec.name, value)
        if kind.column == "json":
            return settled(value, f"{self.name}.{spec.name}")[0]
        if type(value) is not int or not MIN_INT <= value <= MAX_INT:
            scalar_size(self.name, spec.name, value)
        return value  # type: ignore[no-any-return]

    def sealed(self, spec: FieldSpec, bare: Value, record: Mapping[str, Any]) -> bytes:
        """Return the sealed form of a secret's bare value, for the record that has this key."""
        return self.keys(spec).seal(bare, place_of(self.declared.table, record, spec.stored))

    def sealed_changes(self, changes: Sequence[Change_], key: Sequence[KeyPart]) -> list[Change_]:
        """Return stored changes of the record with this key, with what they set secrets to sealed."""
        secrets = {spec.stored: spec for spec in self.declared.secrets}
        record = dict(zip(self._key, key, strict=True))
        return [
            Set(change.path, self.sealed(secrets[change.path.name], change.to, record))  # type: ignore[arg-type]
            if isinstance(change, Set) and change.path.name in secrets
            else change
            for change in changes
        ]

    def opened(self, spec: FieldSpec, sealed: Any, record: Mapping[str, Any]) -> Any:
        """Return the value of a secret. Raises Unsealable."""
        place = place_of(self.declared.table, record, spec.stored)
        bare = self.keys(spec).open(sealed, place, f"{self.name}.{spec.name}")
        decode = spec.kind.sealed.decode if spec.kind.sealed is not None else None
        return bare if decode is None or bare is None else decode(bare)

    def keys(self, spec: FieldSpec) -> Sealer:
        """Return what this field is sealed with. Raises ConfigError where no key was given."""
        if self.sealer is None:
            raise ConfigError(
                f"{self.name}.{spec.name} is secret and there is no key to seal it with.",
                hint=f"Set {VARIABLE}; `palaver keys new` makes a key.",
                entity=self.name,
                field=spec.name,
            )
        return self.sealer

    # --- what lies in objects ---------------------------------------------------------------------------------------

    def references(self, record: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the keys of the objects a record refers to."""
        found = (blob_ref(record.get(spec.stored)) for spec in self.declared.blobs)
        return tuple(ref.key for ref in found if ref is not None)

    def check_held(self, record: Record, uploads: Sequence[tuple[str, Any]], old: Record | None) -> None:
        """Raise Validation for a large object that neither goes up with a record nor belongs to the one it replaces."""
        if not self.large:
            return
        held = {key for key, _ in uploads}
        held.update(() if old is None else self.references(old))
        for spec in self.large:
            ref = blob_ref(record.get(spec.stored))
            if ref is not None and ref.key not in held:
                raise Validation(
                    f"{self.name}.{spec.name} names an object that this record does not hold.",
                    hint="Stage its bytes: `async with LargeObject.staged(store.stream(…))`.",
                    entity=self.name,
                    field=spec.name,
                )

    def released(self, old: Record | None, new: Record) -> tuple[str, ...]:
        """Return the keys of the objects a record no longer refers to."""
        if old is None or not self.declared.blobs:
            return ()
        kept = set(self.references(new))
        return tuple(key for key in self.references(old) if key not in kept)

    def kept(self, record: Mapping[str, Value]) -> list[tuple[str, timedelta]]:
        """Return the objects that outlive an expired record, and for how long after it was written."""
        found = [(blob_ref(record.get(spec.stored)), spec.marker(Blob).keep) for spec in self.declared.blobs]
        return [(ref.key, keep) for ref, keep in found if ref is not None and keep is not None]

    def unpack(self, field: str, ref: BlobRef, data: bytes) -> Any:
        """Return the Python value of an object's bytes."""
        spec = self.declared.fields[field]
        plain: Any = data if ref.codec == "bytes" else loads(data.decode())
        return plain if spec.kind.decode is None else spec.kind.decode(plain)

    # --- reading ----------------------------------------------------------------------------------------------------

    def _decode(self, record: Mapping[str, Any]) -> Any:
        values = self._values(record)
        for spec in self.declared.secrets:
            if (sealed := record.get(spec.stored)) is not None:
                values[spec.name] = self.opened(spec, sealed, record)
        return build(self.declared.entity, values, self._names)

    def decode_sealed(self, record: Mapping[str, Any]) -> Any:
        """Return the instance with its secrets left as they are stored: for whoever has no business with them."""
        values = self._values(record)
        for spec in self.declared.secrets:
            if (sealed := record.get(spec.stored)) is not None:
                values[spec.name] = Sealed(sealed)
        return build(self.declared.entity, values, self._names)


def _readers(
    declared: Declared, names: set[str]
) -> tuple[Callable[[Mapping[str, Any]], dict[str, Any]], Callable[[Mapping[str, Any]], Any] | None]:
    """Compile the functions from a record to an instance's values, and to the instance where it is nothing but those.

    One dict display, and what `fields.build` does without its calls: every read pays for it.
    """
    scope: dict[str, Any] = {"entity": declared.entity, "names": names, "NEW": NEW}
    scope |= {"SET_VALUES": SET_VALUES, "SET_NAMES": SET_NAMES, "SET_EXTRA": SET_EXTRA, "SET_PRIVATE": SET_PRIVATE}
    parts: list[str] = []
    blobs = {spec.name for spec in declared.blobs}
    for number, spec in enumerate(declared.fields.values()):
        default, decode = _default(spec), spec.kind.decode
        present, absent = "v", "None"
        if spec.name in blobs:
            scope[f"decode{number}"] = _large if spec.kind is LARGE else _blob_decoder(decode)
            present = f"decode{number}(v)"
        elif decode is not None:
            scope[f"decode{number}"] = decode
            present = f"decode{number}(v)"
        if default is not None:
            scope[f"default{number}"] = default
            absent = f"default{number}()"
        read = f"get({spec.stored!r})"
        parts.append(
            f"{spec.name!r}: " + (read if (present, absent) == ("v", "None") else f"{absent} if (v := {read}) is None else {present}")
        )
    parts.append(f"'_revision': record[{REVISION!r}]")
    display = "{" + ", ".join(parts) + "}"
    lines = ["def read(record):", " get = record.get", f" return {display}", "def built(record):", " get = record.get"]
    lines += [" instance = NEW(entity)", f" SET_VALUES(instance, {display})", " SET_NAMES(instance, names)"]
    lines += [" SET_EXTRA(instance, None)", " SET_PRIVATE(instance, None)", " return instance"]
    exec("\n".join(lines) + "\n", scope)
    return scope["read"], None if declared.secrets or declared.entity.__private_attributes__ else scope["built"]


def _large(value: Any) -> LargeObject:
    key = value[BLOB_MARK]
    return LargeObject(key[-64:], value["size"], key)


def _blob_decoder(decode: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    return lambda value: blob_ref(value) or (value if decode is None else decode(value))


def _checked_parts(declared: Declared) -> list[tuple[str, str, int, bool]]:
    """Return the columns of keys and indexes, each once: its name, what to call it, its limit, and whether the key needs it."""
    found: dict[str, tuple[str, str, int, bool]] = {}
    for path in declared.access.values():
        for part in path.parts:
            before = found.get(part.column, ("", "", part.most, False))
            required = before[3] or path.physical is None
            found[part.column] = (part.column, f"{declared.name}.{part.path}", min(part.most, before[2]), required)
    return list(found.values())


def _is_set(spec: FieldSpec) -> bool:
    """Return whether a field is a set that is empty where nothing is stored."""
    return (spec.kind.sealed or spec.kind).form is frozenset and not spec.optional


def _default(spec: FieldSpec) -> Callable[[], Any] | None:
    if _is_set(spec):
        decode = (spec.kind.sealed or spec.kind).decode
        return frozenset if decode is None else lambda: decode(NO_ELEMENTS)
    return spec.default


def expiry_seconds(start: datetime, rule: Expires) -> int:
    """Return the epoch second, rounded up, at which a record expires that counts from `start`."""
    from palaver.clock import to_us

    assert rule.after is not None
    try:
        return -(-to_us(start + rule.after) // 1_000_000)
    except OverflowError:
        raise Validation("What would expire lives past the year 9999.", hint="Count its expiry from an earlier moment.") from None


def _length(part: KeyPart | Value) -> int:
    return 0 if part is None else len(part.encode()) if isinstance(part, str) else len(part) if isinstance(part, bytes) else 8
