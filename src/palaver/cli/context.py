"""What a command knows of its surroundings: which database, which schema, which form of output."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from palaver.cli.exits import Exit
from palaver.cli.output import Output
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.cli.settings import Setting
    from palaver.schema import Schema
    from palaver.store import Store

DEFAULT, DEMO = "palaver.db", "palaver-demo.db"


@dataclass(frozen=True)
class Kept:
    """What the database says of itself: the schema it was written with, and whether the demonstration made it."""

    schema: str
    schema_version: int
    demo: bool


@dataclass(frozen=True)
class Context:
    """The global options, and how commands reach what they name.

    `url`, `schema_name`, `blueprint`, `tenant` and `profile` are flags; what is in force, whoever set it, is in `settings` and `where`.
    """

    out: Output
    url: str | None = None
    schema_name: str | None = None
    blueprint: str | None = None
    tenant: str | None = None
    profile: str | None = None
    yes: bool = False
    _homes: list[ModuleType] = field(default_factory=list, init=False, repr=False, compare=False)

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """Every setting, from the strongest source that has it; files are read now, so commands that need none read none."""
        from palaver.cli.settings import settings

        given = {"url": self.url, "schema": self.schema_name, "blueprint": self.blueprint, "tenant": self.tenant}
        return settings(given, self.profile)

    @cached_property
    def where(self) -> str:
        """The URL in force: what was set, ./palaver.db, or the demonstration's file where only that exists."""
        if chosen := self.url or self.settings["url"].value:
            return chosen
        return DEMO if not Path(DEFAULT).exists() and Path(DEMO).exists() else DEFAULT

    @property
    def shown(self) -> str:
        """The URL in force, without what is secret in it."""
        from palaver.cli.addresses import masked

        return masked(self.where)

    @property
    def file(self) -> Path | None:
        """The SQLite file the URL names; None for another stack."""
        from palaver.url import parse_url

        parsed = parse_url(self.where)
        return Path(parsed.path) if parsed.scheme == "sqlite" else None

    def must_exist(self) -> None:
        """Refuse a file that is not there before anything could make it."""
        file = self.file
        if file is not None and not file.exists():
            hint = "Name another with -u, or run `palaver demo` to have one to look at."
            raise Stop(Exit.NOT_FOUND, "no_database", f"There is no database at {file}.", hint=hint)

    async def kept(self) -> Kept | None:
        """Read what the database says of itself without changing it; None where no schema was ever kept in it."""
        from palaver.clock import SystemClock
        from palaver.config import open_stack
        from palaver.system import SYSTEM, system
        from palaver.url import parse_url

        parsed = parse_url(self.where)
        self.out.step(f"asking {self.shown} which schema it was written with")
        if parsed.scheme == "sqlite":
            parsed.options["read_only"] = "true"
        stack = await open_stack(parsed, (SYSTEM,), SystemClock())
        try:
            if all(table.name != SYSTEM.name for table in (await stack.records.describe()).tables):
                return None
            schema, demo = await stack.records.get((system("schema", "current"), system("demo", "made")))
        finally:
            await stack.aclose()
        body: Any = schema["body"] if schema else None
        return Kept(str(body["name"]), int(body["version"]), demo is not None) if body else None

    async def home(self) -> ModuleType:
        """Return the module the schema in force is declared in: what was set, or the blueprint the data names, which is asked once."""
        if not self._homes:
            self._homes.append(await self._found_home())
        return self._homes[0]

    async def _found_home(self) -> ModuleType:
        if named := self._named_schema:
            self.out.step(f"importing the schema, {named}")
            return schema_module(named, self.settings["schema"].folder)
        given = self.settings["blueprint"]
        if given.value and not given.overruled_by:
            return blueprint(given.value)
        self.must_exist()
        kept = await self.kept()
        if kept is None:
            raise Stop(
                Exit.DRIFT,
                "no_schema",
                "This database was never opened with a Palaver schema.",
                hint="Check the path, or name the schema: --schema module:NAME.",
            )
        try:
            return blueprint(kept.schema)
        except Stop:
            raise Stop(
                Exit.USAGE,
                "unknown_schema",
                f"The database was written with schema {kept.schema}, which is no blueprint.",
                hint="Say where it is declared: --schema module:NAME.",
            ) from None

    async def schema(self) -> Schema:
        """Return the schema in force."""
        home = await self.home()
        name = (self._named_schema or "").partition(":")[2] or "SCHEMA"
        schema: Schema = getattr(home, name)
        return schema

    @property
    def _named_schema(self) -> str | None:
        setting = self.settings["schema"]
        return None if setting.overruled_by else setting.value

    @asynccontextmanager
    async def open(self, *, maintain: bool = False, migrate: bool = False) -> AsyncIterator[Store]:
        """Open the database for a command; it must exist, and is bound to a tenant where one is set."""
        from palaver.config import open as open_store
        from palaver.errors import TenantMismatch

        self.must_exist()
        schema = await self.schema()
        tenant = self._tenant_of(schema)
        build = getattr(await self.home(), "PROJECTIONS", ())
        self.out.step(f"opening {self.shown}")
        async with open_store(
            self.where, schema=schema, projections=build, maintain=maintain, migrate=migrate, actor="cli", create=False
        ) as store:
            self.out.step(f"at work on {self.shown}, schema {schema.name} version {schema.version}")
            try:
                yield store.for_tenant(tenant) if tenant else store
            except TenantMismatch as error:
                if tenant:
                    raise
                hint = "Name one: --tenant acme, PALAVER_TENANT, or tenant in palaver.toml."
                raise Stop(Exit.USAGE, "no_tenant", f"Schema {schema.name} has tenants, and this needs one.", hint=hint) from error

    def _tenant_of(self, schema: Schema) -> str | None:
        """Return the tenant that is set. Refuses one where stores of the schema have none."""
        tenant = self.settings["tenant"].value
        if tenant and not schema.tenanted:
            fields = any("tenant" in declared.fields for declared in schema.entities.values())
            hint = "Its records have a field of that name: --where tenant=acme." if fields else "Leave --tenant out."
            raise Stop(Exit.USAGE, "no_tenants", f"Schema {schema.name} has no tenants to be bound to.", hint=hint)
        return tenant

    @asynccontextmanager
    async def running(self, part: str) -> AsyncIterator[tuple[Store, Any]]:
        """Open the database and give one part of what the application runs on beside it: flags, limits, presence or sessions."""
        from palaver.capabilities import capabilities_of

        home = await self.home()
        async with self.open() as store, await capabilities_of(home, store) as found:
            if getattr(found, part) is None:
                hint = f"Beside the schema: async def capabilities(store) -> Capabilities, with {part}=."
                raise Stop(Exit.USAGE, "no_capability", f"{home.__name__} declares no {part}.", hint=hint)
            yield store, getattr(found, part)

    def warn_of_own_cache(self, store: Store) -> bool:
        """Say whether the cache is shared with the application, and tell people where it is not."""
        shared = store.core.cache_at.startswith(("redis", "rediss"))
        if not shared:
            self.out.say("the cache is each process's own memory: what the application keeps there is not seen here (cache=redis://…)")
        return shared

    async def missing(self, schema: Schema) -> list[str]:
        """Return what the database lacks of a schema, in words; nothing where there is no database."""
        from palaver.migrations import reached

        file = self.file
        if file is not None and not file.exists():
            return []
        self.out.step(f"looking at the structure of {self.shown}")
        async with reached(self.where, schema=schema) as migrator:
            return [action.words for action in (await migrator.pending()).actions]

    def confirm(self, what: str, name: str) -> None:
        """Have a person type the name of what will be destroyed; elsewhere --yes is needed."""
        if self.yes:
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise Stop(
                Exit.USAGE, "not_confirmed", f"{what} needs --yes where nobody can be asked.", hint="Look at it first with --dry-run."
            )
        sys.stderr.write(f"{what}.\nType {name} to go on: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip() != name:
            raise Stop(Exit.FAILURE, "not_confirmed", "Nothing was done: another name was typed.")


Here = Annotated[Context, Parameter(parse=False)]
"""How a command asks for its context."""


def schema_module(name: str, folder: Path | None = None) -> ModuleType:
    """Import the module of `module:NAME`, which must hold a schema of that name; the folder, or the working one, is searched first."""
    from importlib import import_module

    from palaver.errors import PalaverError, did_you_mean
    from palaver.schema import Schema

    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise Stop(Exit.USAGE, "schema_name", "A schema is named module:NAME.", hint="For example --schema myapp.data:SCHEMA.")
    first = str(folder or "")
    if first not in sys.path:
        sys.path.insert(0, first)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        own = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        hint = "Run it from the folder your package is in." if own else f"{module_name} imports it, and it is not installed."
        raise Stop(Exit.USAGE, "schema_name", f"There is no module {error.name}.", hint=hint) from error
    except PalaverError:
        raise
    except Exception as error:
        # What an exception says may hold values; of which kind it is and where it came from does not.
        what = f"{module_name} cannot be imported: {type(error).__name__} in {_line_of(error, folder or Path.cwd())}."
        raise Stop(Exit.USAGE, "schema_module", what, hint="Mend it; with --debug the whole traceback is shown.") from error
    if not isinstance(getattr(module, attribute, None), Schema):
        known = [key for key, value in vars(module).items() if isinstance(value, Schema)]
        raise Stop(Exit.USAGE, "schema_name", f"{module_name} has no Schema called {attribute}.", hint=did_you_mean(attribute, known))
    return module


def _line_of(error: Exception, folder: Path) -> str:
    """Return the line an import failed at: the one that cannot be read, or the last one that ran of what lies in the folder."""
    from traceback import extract_tb

    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    ran = extract_tb(error.__traceback__)
    own = [frame for frame in ran if Path(frame.filename).is_relative_to(folder) and "site-packages" not in frame.filename]
    last = (own or ran)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def blueprint(name: str) -> ModuleType:
    """Return the package of a shipped blueprint."""
    from palaver import blueprints
    from palaver.errors import did_you_mean

    if name not in blueprints.BLUEPRINTS:
        raise Stop(Exit.USAGE, "blueprint", f"There is no blueprint {name[:60]}.", hint=did_you_mean(name, blueprints.BLUEPRINTS))
    return blueprints.load(name)
