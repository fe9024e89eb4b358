"""`palaver migrate`: what a changed schema does to a database, planned, reviewed and applied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.cli.output import Output
    from palaver.cli.progress import Progress
    from palaver.evolve import Migration
    from palaver.migrating import Applied, Migrator

app = App(name="migrate", help_format="plaintext", help_formatter="plain", default_parameter=Parameter(negative=(), show_default=False))
Losses = Annotated[list[str] | None, Parameter(name="--allow-data-loss", consume_multiple=False)]
Emit = Literal["cloudformation", "alembic"]


@app.command
@emits("migrate")
async def plan(
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    sql: bool = False,
    emit: Emit | None = None,
    down_revision: str | None = None,
    allow_data_loss: Losses = None,
    here: Here,
) -> int:
    """Print what the database lacks and what it would take; nothing is changed.

    Exits 0 when nothing needs doing, 7 when something does, or when somebody else changed the database.

    Parameters
    ----------
    output
        Write the plan to a file that `migrate apply` takes, the SQL or the template, instead of printing it.
    sql
        Print the statements of the database's dialect.
    emit
        Write a revision for Alembic, or a template for CloudFormation with all of the schema.
    down_revision
        The Alembic revision this one follows.
    allow_data_loss
        Drop what the schema no longer declares: Entity.field or Entity. Give it once for each.
    """
    if emit == "cloudformation":
        return await _template(here, output)
    here.must_exist()
    schema = await here.schema()
    async with here.migrator(schema, read_only=True) as migrator:
        found = await migrator.pending(allow_data_loss or ())
        unmet = await migrator.unmet(found)
        if sql or emit == "alembic":
            await _statements(here, migrator, found, output, down_revision if emit else None, alembic=emit is not None)
        else:
            _tell(here, found, unmet, output)
    return Exit.DRIFT if found.actions or found.drift or unmet else Exit.OK


@app.command
@emits("migrate")
async def apply(file: Path | None = None, /, *, allow_data_loss: Losses = None, here: Here) -> int:
    """Bring the database to its schema: plan and apply, or apply exactly the plan a file holds.

    Refuses, before the first step, what would strand stored data. One that was cut off goes on where it was. Asks nothing.

    Parameters
    ----------
    file
        A plan that `migrate plan -o` wrote; the database must still be what it was planned against.
    allow_data_loss
        Drop what the schema no longer declares: Entity.field or Entity. Give it once for each.
    """
    here.must_exist()
    schema = await here.schema()
    planned = _read(file) if file else None
    if planned and allow_data_loss:
        raise Stop(Exit.USAGE, "plan_file", "A plan file says itself what is lost.", hint="Leave --allow-data-loss away.")
    async with here.migrator(schema, read_only=False) as migrator:
        with _Teller(here.out) as teller:
            migrator.tell = teller
            found = planned or await migrator.pending(allow_data_loss or ())
            under_way = await migrator.under_way()
            if found.actions or found.fingerprint != found.from_fingerprint:
                await migrator.apply(found)
    if found.actions:
        # Opening fills the search indexes that are new or changed.
        async with here.open():
            pass
    _done(here, found, resumed=under_way is not None)
    return Exit.OK


@app.command
@emits("migrate")
async def undo(
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    sql: bool = False,
    dry_run: bool = False,
    allow_data_loss: Losses = None,
    here: Here,
) -> int:
    """Lead the database back from the last migration. Run it with the program from before that, whose declaration says what to.

    What the migration renamed gets its old names; what it added stays stored, and unread. Refuses, before the first step, what
    would strand stored data: what was converted or dropped does not come back. Records that do not fit any more are counted.
    One that was cut off goes on where it was. Asks nothing.

    Parameters
    ----------
    output
        Write the plan to a file that `migrate apply` takes, or the SQL, instead of leading back; nothing is changed.
    sql
        Print the statements of the database's dialect; nothing is changed.
    dry_run
        Print what would be done; nothing is changed. Exits 7 where something would be.
    allow_data_loss
        Drop what the program from before does not declare: Entity.field or Entity. Give it once for each.
    """
    here.must_exist()
    schema = await here.schema()
    only_look = dry_run or sql or output is not None
    async with here.migrator(schema, read_only=only_look) as migrator:
        with _Teller(here.out) as teller:
            found = await migrator.undoing(allow_data_loss or ())
            if sql:
                await _statements(here, migrator, found, output, None, alembic=False)
                return Exit.DRIFT
            if only_look:
                _tell(here, found, await migrator.unmet(found), output)
                return Exit.DRIFT
            migrator.tell = teller
            under_way = await migrator.under_way()
            await migrator.apply(found)
    async with here.open():
        pass
    _done(here, found, resumed=under_way is not None)
    return Exit.OK


@app.command
@emits("migrate_status")
async def status(*, here: Here) -> int:
    """Print the migrations that were applied, what is pending, and what somebody else changed.

    Exits 0 when the database fits its schema, 7 otherwise.
    """
    here.must_exist()
    schema = await here.schema()
    async with here.migrator(schema, read_only=True) as migrator:
        history, under_way = await migrator.applied(), await migrator.under_way()
        found = await migrator.pending()
    pending = [action.words for action in found.actions]
    if under_way is not None:
        pending = pending[under_way[1] :]
    body: dict[str, Any] = {
        "schema": schema.name,
        "schema_version": schema.version,
        "fingerprint": schema.fingerprint,
        "applied": [_plain(each) for each in history],
        "pending": pending,
        "under_way": under_way is not None,
        "kept": list(found.kept),
        "drift": list(found.drift),
        "unseen": list(found.unseen),
    }
    if here.out.json:
        here.out.emit("migrate_status", body)
    else:
        _print_status(here, body)
    return Exit.DRIFT if pending or found.drift or under_way else Exit.OK


def _plain(applied: Applied) -> dict[str, Any]:
    return {
        "number": applied.number,
        "at": _instant(applied.at_ms),
        "schema_version": applied.version,
        "fingerprint": applied.fingerprint,
        "steps": list(applied.actions),
    }


def _instant(ms: int) -> str:
    from palaver.clock import from_ms

    return from_ms(ms).isoformat(timespec="seconds")


def _print_status(here: Here, body: dict[str, Any]) -> None:
    out = here.out
    out.print(f"schema {body['schema']}, version {body['schema_version']}, fingerprint {body['fingerprint']}")
    for each in body["applied"]:
        out.print(
            f"✓ {each['number']}  {each['at']}  version {each['schema_version']}  {each['fingerprint']}  {_steps(len(each['steps']))}"
        )
    for words in body["pending"]:
        out.print(f"+ {words}")
    for words in body["drift"]:
        out.print(f"! {words}")
    for name in body["kept"]:
        out.print(f"= {name} is stored and not declared")
    for words in body["unseen"]:
        out.print(f"? {words}")
    if body["under_way"]:
        out.say("A migration was begun and has not ended: `palaver migrate apply` goes on with it.")
    out.say(f"{len(body['pending'])} pending, {len(body['drift'])} changed by somebody else")


def _tell(here: Here, found: Migration, unmet: Sequence[str], output: Path | None) -> None:
    from palaver.evolve import plan_text

    if output is not None:
        output.write_text(plan_text(found), encoding="utf-8")
    steps = [action.words for action in found.actions]
    if here.out.json:
        shown = {"steps": steps, "applied": False, "kept": list(found.kept), "drift": list(found.drift), "unmet": list(unmet)}
        shown["unseen"] = list(found.unseen)
        here.out.emit("migrate", {**shown, "automatic": found.automatic, "file": str(output or "")})
        return
    for action in found.actions:
        here.out.print(f"+ {action.words}  ({action.effect})")
    for name in found.kept:
        here.out.print(f"= {name} is stored and not declared; it is kept. --allow-data-loss {name} drops it.")
    for words in found.drift:
        here.out.print(f"! {words}")
    for words in found.unseen:
        here.out.print(f"? {words} They are left as they are.")
    for words in unmet:
        here.out.print(f"✗ {words}")
    if found.actions and not found.automatic and found.from_version == found.version:
        here.out.say(
            f"the version is {found.version} as before: raise it, Schema(…, version={found.version + 1}), so that older programs are known"
        )
    here.out.say(_steps(len(steps)) + (f", written to {output}" if output else ""))


def _done(here: Here, found: Migration, *, resumed: bool) -> None:
    steps = [action.words for action in found.actions]
    if here.out.json:
        here.out.emit("migrate", {"steps": steps, "applied": True, "kept": list(found.kept), "resumed": resumed})
        return
    for step in steps:
        here.out.print(f"✓ {step}")
    for name in found.kept:
        here.out.print(f"= {name} is stored and not declared; it is kept.")
    here.out.say(f"{_steps(len(steps))} taken" + (", some of them before" if resumed else ""))


def _steps(count: int) -> str:
    return f"{count:,} step{'s' if count != 1 else ''}"


def _read(file: Path) -> Migration:
    import json

    from palaver.evolve import plan_of

    try:
        return plan_of(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise Stop(
            Exit.NOT_FOUND, "plan_file", f"There is no plan in {file}.", hint="Make one: palaver migrate plan -o plan.json."
        ) from None


async def _statements(here: Here, migrator: Migrator, found: Migration, output: Path | None, down: str | None, *, alembic: bool) -> None:
    from palaver.emit.statements import script
    from palaver.url import parse_url

    parsed = parse_url(here.where)
    if parsed.scheme not in ("sqlite", "postgresql"):
        raise Stop(Exit.USAGE, "no_sql", f"{parsed.scheme} speaks no SQL.", hint="--emit cloudformation writes its tables out.")
    physical = await migrator.describe()
    namespace = parsed.options.get("schema", "public")
    if alembic:
        from palaver.emit.alembic import revision

        text = revision(found, physical, parsed.scheme, namespace, down)  # type: ignore[arg-type]
    else:
        text = script(found, physical, parsed.scheme, namespace)  # type: ignore[arg-type]
    _write(here, text, output)


async def _template(here: Here, output: Path | None) -> int:
    import json

    from palaver.emit.cloudformation import template
    from palaver.url import parse_url

    parsed = parse_url(here.where)
    if parsed.scheme != "dynamodb":
        raise Stop(Exit.USAGE, "no_template", "A template describes a DynamoDB stack.", hint="Name one: -u dynamodb://REGION/PREFIX.")
    prefix = parsed.path.partition("/")[2]
    made = template(await here.schema(), prefix=prefix, options=parsed.options)
    _write(here, json.dumps(made, indent=2, ensure_ascii=False) + "\n", output)
    return Exit.OK


def _write(here: Here, text: str, output: Path | None) -> None:
    if output is None:
        here.out.write(text.rstrip("\n"))
    else:
        output.write_text(text, encoding="utf-8")
        here.out.say(f"written to {output}")


class _Teller:
    """Tells how far each action is: a line for each on stderr that moves while records are visited."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._words = ""
        self._progress: Progress | None = None

    def __enter__(self) -> _Teller:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def __call__(self, words: str, records: int) -> None:
        if words != self._words:
            self._end()
            self._words, self._progress = words, self._out.progress(words)
        if records and self._progress is not None:
            self._progress.advance(records)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.__exit__()
        self._progress = None


__all__ = ["app", "apply", "plan", "status", "undo"]
