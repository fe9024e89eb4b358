"""Opening the target of a copy whose source is lost: what no feed shows is made from the records, and what is missing is said.

The source is never asked. What was read from it at different times lies side by side, so this is no state the source ever had.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from palaver.clock import from_ms, to_ms
from palaver.draft import job
from palaver.errors import ConfigError, Conflict, SettleTimeout
from palaver.expr import Path
from palaver.feed import Runner
from palaver.lifecycle.copy_clashes import settle_claims
from palaver.lifecycle.copy_ends import End, fingerprint, pages
from palaver.lifecycle.copy_follow import Follower
from palaver.lifecycle.copy_progress import Progress
from palaver.ops import MARK, Address, Op, Put, Remove, Update, WriteSet, position, revision_of
from palaver.system import SYSTEM, job_address
from palaver.values import Record

SETTLE_S = 60.0
AHEAD = 10**9
"""How many positions the feed goes on above the last one heard of: rows of counts may remember some the target never saw."""


@dataclass
class Promoted:
    """What a target holds whose source is lost. Instants are milliseconds.

    `whole_to_ms`: every write the source had committed by then is there, None where the first pass never ended. `behind` is how many
    positions the source was ahead when it was last heard of. Images of history, tokens and jobs are whole only to `others_to_ms`;
    where persons were `erased` at the source after that, images of theirs may be here.
    """

    whole_to_ms: int | None = None
    heard_ms: int = 0
    behind: int = 0
    others_to_ms: int = 0
    incomplete: tuple[str, ...] = ()
    objects_missing: int = 0
    shared_values: Mapping[str, int] = field(default_factory=dict)
    cascades_resumed: int = 0
    erased: bool = False


async def promote(target: End, source: str, *, allow: Collection[str] = ()) -> Promoted:
    """Make a database of its own of an unfinished copy; `source` is the name of what it was copied from, which is not asked.

    Raises ConfigError where there is no such copy, Conflict while another process copies, where the copy has ended or its
    first pass has not, unless `allow` names every entity that is incomplete. Cut off, it can be run again.
    """
    progress = await _found(target, source)
    incomplete = _incomplete(target, progress)
    _refuse_unnamed(incomplete, allow)
    async with progress.held():
        report = Promoted(
            whole_to_ms=None if progress.state == "copying" else _moment(progress),
            heard_ms=progress.heard_ms,
            behind=progress.ahead,
            others_to_ms=progress.began_ms,
            incomplete=tuple(incomplete),
            erased=progress.erased,
        )
        report.shared_values = await settle_claims(target)
        for name in target.tables:
            await _mend(target, name, report)
        await _open(target, progress)
    # The projections read over the gap now; what takes them longer is the worker's.
    with suppress(SettleTimeout):
        await Runner(target.records, target.core.projections, target.core.clock).settle(SETTLE_S)
    return report


async def _found(target: End, source: str) -> Progress:
    found = await Progress.find(target) if (await target.ask(target.records.describe)).tables else None
    if found is None:
        raise ConfigError("Nothing was ever copied into this target.", hint="Check its URL, the second of the two.")
    if found.source != fingerprint(source):
        raise ConfigError("The target is a copy of another source.", hint="Name the one the copy was begun with.")
    if found.state == "finished":
        raise Conflict("This copy has ended: the target is a database of its own.", hint="Open it.")
    if found.schema != target.core.schema.fingerprint:
        raise ConfigError("The schema is another one than when the copy was begun.", hint="Promote it with that version of the program.")
    return found


def _incomplete(target: End, progress: Progress) -> list[str]:
    """Return the entities the first pass had not read to their end. What the system keeps is made anew from the records."""
    if progress.state != "copying":
        return []
    ended = {name for name, segments in progress.tables.items() if segments and all(each.done for each in segments)}
    return sorted(table.entity for name, table in target.tables.items() if name not in ended and name != SYSTEM.name)


def _refuse_unnamed(incomplete: Collection[str], allow: Collection[str]) -> None:
    unnamed, unknown = sorted(set(incomplete) - set(allow)), sorted(set(allow) - set(incomplete))
    if unknown:
        raise ConfigError(f"Nothing of {', '.join(unknown)} would be lost.", hint="Leave --allow-data-loss away for it.")
    if unnamed:
        words = " ".join(f"--allow-data-loss {name}" for name in incomplete)
        raise Conflict(
            f"The first pass of this copy had not ended, so the target lacks an unknown number of records of {', '.join(unnamed)}.",
            hint=f"If the source is lost and that is all there is: {words}.",
        )


def _moment(progress: Progress) -> int:
    """Return to when the target has every write: to the last word of the source where that left nothing, else to the last change."""
    return progress.heard_ms if not progress.ahead else max(progress.began_ms, progress.newest_us // 1_000)


# --- what no feed shows -----------------------------------------------------------------------------------------------


async def _mend(target: End, table: str, report: Promoted) -> None:
    """Resume cascades whose jobs came too late for the first pass, and count objects that are referred to and missing."""
    declared = target.core.schema.tables.get(table)
    if declared is None:
        return
    codec = target.core.planner.codec(declared.entity)
    async for page in pages(target, table):
        ops = [op for record in page if record.get(MARK) is not None for op in await _resumed(target, table, record)]
        for op in ops:
            await target.ask(partial(target.records.write, WriteSet((op,), target.core.now_us())))
        report.cascades_resumed += len(ops)
        for key in [key for record in page for key in codec.references(record)] if declared.blobs else ():
            report.objects_missing += await target.ask(partial(target.core.blobs.head, key)) is None


async def _resumed(target: End, table: str, record: Record) -> list[Op]:
    at = Address(table, position(target.tables[table], None, record))
    if (await target.ask(lambda: target.records.get((job_address(at),))))[0] is not None:
        return []
    if record[MARK] != revision_of(record):
        # It was hidden for a moment, to see whether it has children; nobody decided that it goes.
        return [Update(at, (Remove(Path(MARK)),))]
    return [Put(job_address(at), job(at, 0, written=revision_of(record), expired=False, counted=False))]


# --- opening ----------------------------------------------------------------------------------------------------------


async def _open(target: End, progress: Progress) -> None:
    follower, engine = Follower(target, target, progress), target.records
    if not progress.into_existing:
        await follower.make_searchable()
        last = max(progress.seen, progress.head) + progress.ahead + AHEAD
        await target.ask(lambda: engine.continue_feed((), last))  # type: ignore[attr-defined]
    # Where the source's projections were later than this, the rows they wrote remember it.
    await follower.position({projection.name: progress.begins for projection in target.core.projections})
    progress.state, progress.promoted_ms = "finished", to_ms(target.core.clock.now())
    progress.target_head = (await target.ask(lambda: engine.changes(None, 0))).head
    await progress.save()


def in_words(report: Promoted) -> list[str]:
    """Return what was carried over and what is missing, a line each."""
    lines = []
    if report.whole_to_ms is None:
        lines.append(f"carried over: all of what is not named here, as it was from {_instant(report.others_to_ms)} on")
        lines += [f"missing: records of {name}, nobody knows how many" for name in report.incomplete]
    else:
        lines.append(f"carried over: every write up to {_instant(report.whole_to_ms)}, and some later ones")
        ahead = f"; it was {report.behind:,} positions ahead then" if report.behind else ""
        lines.append(f"missing: what was written since. The source was last heard of at {_instant(report.heard_ms)}{ahead}")
    lines.append(f"missing: images of history and tokens of writes after {_instant(report.others_to_ms)}, when the copy began")
    if report.erased:
        lines.append(f"to erase again: who was erased at the source after {_instant(report.others_to_ms)}; images of theirs may be here")
    if report.objects_missing:
        lines.append(f"missing: {report.objects_missing:,} objects that records refer to")
    for unique, count in report.shared_values.items():
        lines.append(f"to settle: {count:,} records hold a value of {unique} that another one has; the first keeps it")
    return lines


def _instant(ms: int) -> str:
    return from_ms(ms).isoformat(timespec="seconds")
