"""`palaver copy`: any stack into any other, while the application goes on; resumable, verified, followed until cut-over."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from palaver.cli.context import Context, Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop
from palaver.cli.stopping import BOTH, stopping

if TYPE_CHECKING:
    from palaver.cli.progress import Progress
    from palaver.lifecycle.copy import Copied
    from palaver.lifecycle.copy_clashes import Clash
    from palaver.lifecycle.copy_ends import End
    from palaver.lifecycle.copy_sums import Difference
    from palaver.lifecycle.copy_verify import Verified
    from palaver.values import KeyPart

LAG_EVERY_S = 1.0


Source = Annotated[str, Parameter(name="FROM")]
Target = Annotated[str, Parameter(name="TO")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """How far a copy goes, and what is compared: the options of the command."""

    follow: bool = False
    """Keep up with what is written to the source until Ctrl-C; the copy is then unfinished, and goes on when run again."""
    until_caught_up: bool = False
    """Follow until nothing is left, then end the copy: for the cut-over, when writers have stopped."""
    verify: bool = False
    """Compare both sides afterwards, every record and object; exit with 1 where they differ."""
    verify_only: bool = False
    """Compare, and copy nothing."""
    differences: Path | None = None
    """Write the keys that differ, or with --into-existing those that clash, into this file, which must not exist. Keys may name people."""
    migrate: bool = False
    """Add to the target what it lacks of the schema; an empty database is given all of it anyway."""
    into_existing: bool = False
    """Copy into a target that holds something: what is newer there stays, and nothing is removed from it."""
    promote: bool = False
    """Open the target of an unfinished copy whose source is lost, and say what it lacks; the source is not asked."""
    allow_data_loss: Annotated[list[str] | None, Parameter(consume_multiple=False)] = None
    """With --promote, where the first pass had not ended: an entity that may lack records. Give it once for each."""

    def must_fit(self) -> None:
        """Refuse options that contradict each other."""
        if self.allow_data_loss and not self.promote:
            raise Stop(Exit.USAGE, "usage", "A copy loses nothing.", hint="--allow-data-loss goes with --promote.")
        copies = self.follow or self.until_caught_up or self.migrate or self.into_existing
        if self.promote and (copies or self.verify or self.verify_only):
            raise Stop(Exit.USAGE, "usage", "Promoting copies nothing.", hint="Leave the other options away.")
        if self.promote:
            return
        if self.differences is not None and not (self.verify or self.verify_only or self.into_existing):
            raise Stop(Exit.USAGE, "usage", "Differences are found by comparing.", hint="Add --verify or --verify-only.")
        if self.verify and self.follow and not self.until_caught_up:
            hint = "Add --until-caught-up, or verify afterwards."
            raise Stop(Exit.USAGE, "usage", "What is followed is never the same for long.", hint=hint)


ONCE = Asked()


@emits("copy", "copy_promote")
async def copy(source: Source, target: Target, /, *, asked: Asked = ONCE, here: Here) -> int:
    """Copy a whole stack into another one: records, images, objects, jobs, and the place in the feed; all tenants.

    Cut off anywhere, the same command goes on where it was. The target cannot be opened before the copy has ended.

    Parameters
    ----------
    source
        The URL to copy from.
    target
        The URL to copy into; it must be empty, or an unfinished copy of the same source.
    """
    asked.must_fit()
    if asked.promote:
        return await _promote(here, source, target, asked.allow_data_loss or ())
    began, copied, verified = time.monotonic(), None, None
    with _Differences(asked.differences) as found:
        async with _ends(here, source, target) as (one, other):
            if not asked.verify_only:
                copied = await _copy(here, one, other, found, asked)
            if asked.verify_only or (asked.verify and copied is not None and copied.finished):
                verified = await _verify(here, one, other, found)
    _tell(here, copied, verified, time.monotonic() - began)
    return Exit.OK if verified is None or verified.same else Exit.FAILURE


@asynccontextmanager
async def _ends(here: Context, source: str, target: str) -> AsyncIterator[tuple[End, End]]:
    from palaver.lifecycle.copy import LOST
    from palaver.lifecycle.copy_ends import End, identity

    if identity(source) == identity(target):
        raise Stop(Exit.USAGE, "same_database", "The source and the target are the same database.", hint="Name two.")
    from_ = replace(here, url=source)
    try:
        from_.must_exist()
    except Stop as stop:
        stop.problem = replace(stop.problem, hint=f"{stop.problem.hint} {LOST}")
        raise
    schema = await from_.schema()
    here.out.step(f"opening {from_.shown} and {replace(here, url=target).shown}")
    made = getattr(await from_.home(), "PROJECTIONS", ())
    async with End.open(source, schema, projections=made, read_only=True) as one, End.open(target, schema, projections=made) as other:
        here.out.step("copying")
        yield one, other


async def _copy(here: Context, one: End, other: End, found: _Differences, asked: Asked) -> Copied:
    from palaver.lifecycle.copy import Copy

    follow = asked.follow or asked.until_caught_up
    # What is not followed ends by itself, and is resumed when it was cut off.
    with here.out.progress("records") as progress, stopping(BOTH if follow else ()) as stop:
        watch = _watch(here, progress, found)
        copying = Copy(one, other, into_existing=asked.into_existing, provision=asked.migrate, watch=watch)
        return await copying.run(follow=follow, until_caught_up=asked.until_caught_up, stop=stop)


def _watch(here: Context, progress: Progress, found: _Differences) -> Any:
    from palaver.lifecycle.copy import Watch

    class Shown(Watch):
        last = 0.0

        def records(self, table: str, count: int) -> None:
            progress.advance(count)

        def objects(self, count: int) -> None:
            progress.advance(count)

        def clash(self, clash: Clash) -> None:
            found.write(clash.table, clash.source, "clash", target=clash.target, unique=clash.unique)

        def lag(self, positions: int, seconds: float) -> None:
            now = time.monotonic()
            if now - self.last >= LAG_EVERY_S:
                self.last = now
                here.out.say(f"lag {positions:,}" + (f", {seconds:,.1f} s" if positions else ""))

    return Shown()


async def _promote(here: Context, source: str, target: str, allow: Collection[str]) -> int:
    from palaver.lifecycle.copy_ends import End, identity
    from palaver.lifecycle.copy_promote import in_words, promote

    to = replace(here, url=target)
    to.must_exist()
    schema, made = await to.schema(), getattr(await to.home(), "PROJECTIONS", ())
    async with End.open(target, schema, projections=made) as other:
        report = await promote(other, identity(source), allow=allow)
    if here.out.json:
        here.out.emit("copy_promote", asdict(report))
    else:
        for line in in_words(report):
            here.out.print(line)
        here.out.say("the target is a database of its own now; point the application to it")
    return Exit.OK


# --- comparing --------------------------------------------------------------------------------------------------------


async def _verify(here: Context, one: End, other: End, differences: _Differences) -> Verified:
    from palaver.lifecycle.copy_verify import verify

    def write(found: Difference) -> None:
        differences.write(found.table, found.key, found.kind)

    here.out.step("comparing both sides")
    with here.out.progress("compared") as progress:
        return await verify(one, other, found=write, records=progress.advance, objects=progress.advance)


class _Differences:
    """The file that keys are written into, one JSON object a line; nothing where none was asked for."""

    def __init__(self, path: Path | None) -> None:
        # Keys may name people: nobody else on this machine need read them.
        self._file = None if path is None else os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")

    def __enter__(self) -> _Differences:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(
        self, table: str, key: tuple[KeyPart, ...], kind: str, *, target: tuple[KeyPart, ...] | None = None, unique: str = ""
    ) -> None:
        from palaver.system import plain_key

        if self._file is not None:
            more = {} if target is None else {"unique": unique, "target_key": plain_key(target)}
            self._file.write(json.dumps({"table": table, "key": plain_key(key), "kind": kind, **more}, ensure_ascii=False) + "\n")


# --- telling ----------------------------------------------------------------------------------------------------------


def _tell(here: Context, copied: Copied | None, verified: Verified | None, seconds: float) -> None:
    if here.out.json:
        here.out.emit("copy", {**_copied_json(copied), **_verified_json(verified), "seconds": round(seconds, 3)})
        return
    if copied is not None:
        if copied.records:
            here.out.table(("table", "records"), sorted(copied.records.items()), right=("records",))
        here.out.say(_summary(copied, seconds))
    if verified is not None:
        columns = ("entity", "source", "target", "missing", "different", "extra")
        here.out.table(columns, [tuple(getattr(row, name) for name in columns) for row in verified.tables], right=columns[1:])
        objects = verified.objects
        here.out.say(
            f"{objects.equal:,} objects are equal; {objects.missing:,} missing, {objects.different:,} different, {objects.extra:,} extra"
        )
        here.out.say("both sides hold the same" if verified.same else "the sides differ; --differences FILE writes down where")


def _summary(copied: Copied, seconds: float) -> str:
    total = sum(copied.records.values())
    text = f"{total:,} records, {copied.objects:,} objects ({copied.bytes:,} bytes), {copied.followed:,} followed, in {seconds:,.1f} s"
    if not copied.finished:
        return f"{text}; not finished: run it again to go on"
    return text if copied.settled else f"{text}; the source was written to meanwhile: stop writers and run it again for all of it"


def _copied_json(copied: Copied | None) -> dict[str, Any]:
    if copied is None:
        return {"copied": None}
    body = asdict(copied)
    return {"copied": {**body, "records": [{"table": table, "records": count} for table, count in sorted(copied.records.items())]}}


def _verified_json(verified: Verified | None) -> dict[str, Any]:
    if verified is None:
        return {"verified": None}
    return {"verified": {"same": verified.same, "entities": [asdict(row) for row in verified.tables], "objects": asdict(verified.objects)}}
