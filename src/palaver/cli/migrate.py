"""`palaver migrate`: what a changed schema does to a database, planned, reviewed and applied."""

from __future__ import annotations

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
    from palaver.migrating import Applied, MigrationStatus
    from palaver.ops import Physical

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
    found, physical = await _looked(here, allow_data_loss, undo=False)
    if sql or emit == "alembic":
        _statements(here, physical, found, output, down_revision if emit else None, alembic=emit is not None)
    else:
        _tell(here, found, output)
    return Exit.DRIFT if found.actions or found.drift or found.unmet else Exit.OK


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
    planned = _read(file) if file else None
    if planned and allow_data_loss:
        raise Stop(Exit.USAGE, "plan_file", "A plan file says itself what is lost.", hint="Leave --allow-data-loss away.")
    await _migrated(here, planned, allow_data_loss, undo=False)
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
    if not (dry_run or sql or output):
        await _migrated(here, None, allow_data_loss, undo=True)
        return Exit.OK
    found, physical = await _looked(here, allow_data_loss, undo=True)
    if sql:
        _statements(here, physical, found, output, None, alembic=False)
    else:
        _tell(here, found, output)
    return Exit.DRIFT


@app.command
@emits("migrate_status")
async def status(*, here: Here) -> int:
    """Print the migrations that were applied, what is pending, what somebody else changed, and whose turn it is.

    Exits 0 when the database fits its schema, 7 otherwise: also where the data is newer than this program.
    """
    from palaver.migrations import migration_status

    here.must_exist()
    schema = await here.schema()
    here.out.step(f"looking at the structure of {here.shown}")
    found = await migration_status(here.where, schema=schema)
    if here.out.json:
        here.out.emit("migrate_status", _plain_status(found))
    else:
        _print_status(here, found)
    return Exit.OK if found.fits else Exit.DRIFT


async def _looked(here: Here, allow_data_loss: list[str] | None, *, undo: bool) -> tuple[Migration, Physical]:
    from palaver.migrations import planned, reached

    here.must_exist()
    schema = await here.schema()
    here.out.step(f"looking at the structure of {here.shown}")
    async with reached(here.where, schema=schema) as migrator:
        return await planned(migrator, allow_data_loss or (), undo=undo), await migrator.describe()


async def _migrated(here: Here, plan: Migration | None, allow_data_loss: list[str] | None, *, undo: bool) -> None:
    from palaver.migrations import migrate

    here.must_exist()
    schema = await here.schema()
    here.out.step(f"migrating {here.shown}")
    with _Teller(here.out) as teller:
        found = await migrate(here.where, schema=schema, plan=plan, allow_data_loss=allow_data_loss or (), undo=undo, progress=teller)
    _done(here, found)


def _plain_status(found: MigrationStatus) -> dict[str, Any]:
    plan = found.plan
    return {
        "schema": found.schema,
        "schema_version": found.version,
        "fingerprint": found.fingerprint,
        "stored_version": found.stored_version,
        "stored_fingerprint": found.stored_fingerprint,
        "applied": [_plain(each) for each in found.applied],
        "pending": [action.words for action in found.actions],
        "refused": found.refused.message if found.refused is not None else None,
        "under_way": found.under_way,
        "kept": list(plan.kept) if plan is not None else [],
        "drift": list(found.drift),
        "unseen": list(plan.unseen) if plan is not None else [],
        "turn": found.turn,
    }


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


def _print_status(here: Here, found: MigrationStatus) -> None:
    out, plan = here.out, found.plan
    out.print(f"schema {found.schema}, version {found.version}, fingerprint {found.fingerprint}")
    if found.stored_fingerprint not in ("", found.fingerprint):
        out.print(f"stored is version {found.stored_version}, fingerprint {found.stored_fingerprint}")
    for each in found.applied:
        out.print(f"✓ {each.number}  {_instant(each.at_ms)}  version {each.version}  {each.fingerprint}  {_steps(len(each.actions))}")
    for action in found.actions:
        out.print(f"+ {action.words}")
    for words in found.drift:
        out.print(f"! {words}")
    for name in plan.kept if plan is not None else ():
        out.print(f"= {name} is stored and not declared")
    for words in plan.unseen if plan is not None else ():
        out.print(f"? {words}")
    if found.refused is not None:
        out.print(f"✗ {found.refused.message}")
    if found.turn:
        out.print(found.turn)
    out.say(f"{len(found.actions)} pending, {len(found.drift)} changed by somebody else")


def _tell(here: Here, found: Migration, output: Path | None) -> None:
    from palaver.evolve import plan_text

    if output is not None:
        output.write_text(plan_text(found), encoding="utf-8")
    steps = [action.words for action in found.actions]
    if here.out.json:
        shown = {"steps": steps, "applied": False, "kept": list(found.kept), "drift": list(found.drift), "unmet": list(found.unmet)}
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
    for words in found.unmet:
        here.out.print(f"✗ {words}")
    if found.actions and not found.automatic and found.from_version == found.version:
        here.out.say(
            f"the version is {found.version} as before: raise it, Schema(…, version={found.version + 1}), so that older programs are known"
        )
    here.out.say(_steps(len(steps)) + (f", written to {output}" if output else ""))


def _done(here: Here, found: Migration) -> None:
    resumed = found.under_way is not None
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


def _statements(here: Here, physical: Physical, found: Migration, output: Path | None, down: str | None, *, alembic: bool) -> None:
    from palaver.emit.statements import script
    from palaver.url import parse_url

    parsed = parse_url(here.where)
    if parsed.scheme not in ("sqlite", "postgresql"):
        raise Stop(Exit.USAGE, "no_sql", f"{parsed.scheme} speaks no SQL.", hint="--emit cloudformation writes its tables out.")
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
