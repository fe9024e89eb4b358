"""From a URL to an opened store. Adapters are named only as import strings, so that nothing unused is imported."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaver.blob_ports import BlobStore
from palaver.clock import Clock, SystemClock
from palaver.core import Core
from palaver.cursor import Signer
from palaver.environment import value_of
from palaver.errors import ConfigError, NotProvisioned
from palaver.extras import named_extras
from palaver.feed import Projection
from palaver.ops import Guard, Origin, Put, Table, Unchanged, WriteSet
from palaver.plan import Planner
from palaver.ports import RecordEngine, SearchIndex
from palaver.schema import Schema
from palaver.searching import SearchProjection
from palaver.store import Store
from palaver.system import system
from palaver.upkeep import Released
from palaver.url import Url, parse_url

if TYPE_CHECKING:
    from palaver.migrating.opening import Provisioned

ProjectionFactory = Callable[[Store], Projection]


@dataclass
class Stack:
    """The engines one URL names."""

    records: RecordEngine
    blobs: BlobStore
    search: SearchIndex
    closers: list[Any]
    embedded: bool = True
    #: Options the URL does not have and a schema with objects or searches needs, such as `blobs`.
    missing: tuple[str, ...] = ()

    async def aclose(self) -> None:
        """Close the engines, and then what they share."""
        for close in (self.records.aclose, self.search.aclose, self.blobs.aclose, *self.closers):
            await close()


_STACKS = {
    "sqlite": "palaver.stacks:sqlite",
    "memory": "palaver.stacks:memory",
    "postgresql": "palaver.stacks:postgresql",
    "dynamodb": "palaver.stacks:dynamodb",
}


class Opening:
    """What `open` returns: `async with` it, or await it and close the store yourself."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._store: Store | None = None

    def __await__(self) -> Generator[Any, None, Store]:
        return self._make().__await__()  # type: ignore[no-any-return]

    async def __aenter__(self) -> Store:
        self._store = await self._make()
        return self._store

    async def __aexit__(self, *exc: object) -> None:
        if self._store is not None:
            await self._store.aclose()


def open(
    url: str | None = None,
    *,
    schema: Schema,
    clock: Clock | None = None,
    projections: Iterable[ProjectionFactory] = (),
    maintain: bool | None = None,
    migrate: bool | None = None,
    actor: str | None = None,
    create: bool = True,
) -> Opening:
    """Open the stack a URL names (default: `PALAVER_URL`, or what the file holds that `PALAVER_URL_FILE` names) for a schema.

    `maintain` runs projections, cascades and sweeps in this process (default: on the embedded stack); otherwise
    `palaver work` does. `migrate` lets additive schema changes be applied at opening (default: on the embedded stack);
    what renames, converts, tightens or drops takes `palaver migrate apply`. A program older than the data may read and
    patch what it knows, and puts nothing.
    `create=False` refuses a database that does not exist yet.
    Raises ConfigError (URL, options, a key of its secrets that is missing), Unavailable, NotProvisioned (the database does not
    fit, or is newer).
    """

    asked = _Asked(schema, clock or SystemClock(), projections, maintain, migrate, actor, create)
    return Opening(lambda: _opened(url, asked))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What `open` was asked for, beside the URL."""

    schema: Schema
    clock: Clock
    projections: Iterable[ProjectionFactory]
    maintain: bool | None
    migrate: bool | None
    actor: str | None
    create: bool


async def _opened(named: str | None, asked: _Asked) -> Store:
    url = parse_url(named or value_of("PALAVER_URL"))
    if not asked.create:
        url.options["create"] = "false"
    from palaver import seal_keys

    schema, planner = asked.schema, Planner(asked.schema)
    seal_keys.refuse_unsealable(schema, url)
    stack = await open_stack(url, tuple(planner.tables.values()), asked.clock)
    try:
        refuse_incomplete(schema, stack, url)
        if not asked.create and not (await stack.records.describe()).tables:
            raise NotProvisioned("The database holds no tables of Palaver.", hint="Check the URL.")
        planner.seals_with(await seal_keys.sealer_for(schema, url, stack.records))
        return await _assemble(asked, planner, stack, url)
    except BaseException:
        await stack.aclose()
        raise


def refuse_incomplete(schema: Schema, stack: Stack, url: Url) -> None:
    """Refuse a URL that names no place for what the schema stores beside records."""
    needed = {"blobs": any(declared.blobs for declared in schema.entities.values()), "search": bool(schema.searches)}
    for option in stack.missing:
        if needed[option]:
            example = {"blobs": "blobs=s3://bucket/prefix", "search": "search=sqlite:///search.db"}[option]
            raise ConfigError(
                f"Schema {schema.name} needs the option {option}, which the {url.scheme} URL has not.", hint=f"Add {example}."
            )


async def open_stack(url: Url, tables: Sequence[Table], clock: Clock) -> Stack:
    """Open the engines a URL names, and prepare nothing in them; raises what opening them raises."""
    module, name = _STACKS[url.scheme].split(":")
    with named_extras():
        stack: Stack = await getattr(import_module(module), name)(url, tables, clock)
    return stack


async def _assemble(asked: _Asked, planner: Planner, stack: Stack, url: Url) -> Store:
    # A program that declares and never opens needs nothing of migrating.
    from palaver.migrating.noticing import SchemaWatch
    from palaver.migrating.opening import provision

    records, clock = stack.records, asked.clock
    found = await provision(planner, records, clock, changing=stack.embedded if asked.migrate is None else asked.migrate)
    await _refuse_half_a_copy(records)
    if planner.sealer is not None:
        from palaver.known_keys import check_keys

        await check_keys(records, planner.sealer)
    core = Core(
        schema=asked.schema,
        planner=planner,
        records=records,
        blobs=stack.blobs,
        search=stack.search,
        clock=clock,
        signer=Signer(await _cursor_keys(records, clock)),
        cache_at=url.options.get("cache", "memory"),
        closers=stack.closers,
        loop=asyncio.get_running_loop(),
        pid=os.getpid(),
    )
    store = Store(core) if asked.actor is None else Store(core).acting_as(asked.actor)
    await _project(store, asked.projections, found)
    if url.scheme != "memory":
        core.watch = SchemaWatch(core, found.fingerprint)
    if (stack.embedded if asked.maintain is None else asked.maintain) and not found.older:
        store.runner().start()
    return store


async def _project(store: Store, projections: Iterable[ProjectionFactory], found: Provisioned) -> None:
    """Put the projections together, and fill search indexes that are new or changed."""
    core = store.core
    if any(declared.blobs for declared in core.schema.entities.values()):
        core.projections.append(Released(core))
    fill: list[str] = []
    searching = SearchProjection(core) if core.schema.searches else None
    if searching is not None:
        # An index that a newer program declares otherwise stays as that program made it.
        fill = await searching.prepare() if found.searches else []
        core.projections.append(searching)
    core.projections.extend(make(store) for make in projections)
    if found.rebuild and searching is not None:
        await store.runner().rebuild("search")
        from palaver.migrating.opening import rebuilt

        await rebuilt(core.records, core.clock)
    elif fill and searching is not None:
        await (store.runner().rebuild("search") if await _holds_records(core, searching) else searching.activate())


async def _refuse_half_a_copy(records: RecordEngine) -> None:
    """Refuse what a copy is still being made into: projections over half the data would be wrong for good."""
    record = (await records.get((system("copy", "into"),)))[0]
    body: Any = record["body"] if record else {}
    if body and body["state"] != "finished":
        raise NotProvisioned(
            "A copy into this database has not ended.",
            hint="Run the same `palaver copy` again; it goes on. Where its source is lost for good, add --promote.",
        )


async def _holds_records(core: Core, searching: SearchProjection) -> bool:
    for table in searching.tables:
        if (await core.records.scan(table, after=None, limit=1)).records:
            return True
    return False


async def _cursor_keys(records: RecordEngine, clock: Clock) -> list[bytes]:
    """Return the keys cursors are signed with: those of PALAVER_KEYS, or one made at first open and kept."""
    if given := [key.encode() for key in value_of("PALAVER_KEYS").split(",") if key]:
        return given
    at = system("key", "cursor")
    record = (await records.get((at,)))[0]
    if record is None:
        body = {"key": secrets.token_hex(32)}
        put = Put(at, {"scope": "key", "name": "cursor", "body": body}, (Guard(Unchanged(None), Origin(0, "key")),))  # type: ignore[dict-item]
        await records.write(WriteSet((put,), int(clock.now().timestamp() * 1_000_000)))
        record = (await records.get((at,)))[0]
    assert record is not None
    body_: Any = record["body"]
    return [bytes.fromhex(body_["key"])]


def beside(path: str) -> Path:
    """Return the folder for the objects of a database file: beside it, with its name."""
    file = Path(path)
    return file.with_name(file.name + ".blobs")
