"""`palaver purge`: erase what is stored about people, with a receipt."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaver.cli.context import Context, Here
from palaver.cli.exits import Exit
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.lifecycle.erase import Erased
    from palaver.store import Store


async def purge(
    subject: str | None = None,
    /,
    *,
    inactive_since: str | None = None,
    dry_run: bool = False,
    receipt: Path | None = None,
    here: Here,
) -> int:
    """Erase everything about a person, in records, history, objects, indexes and archives; or about people long inactive.

    What would go is counted first. On a terminal the person's identifier has to be typed; elsewhere --yes is needed.

    Parameters
    ----------
    subject
        Whom.
    inactive_since
        Instead of one person: everybody not seen since then, such as 90d or 2026-08-01.
    dry_run
        Only count.
    receipt
        Write the receipt into this file as well.
    """
    if (subject is None) == (inactive_since is None):
        raise Stop(Exit.USAGE, "usage", "Purge takes one person, or --inactive-since.", hint="palaver purge 2010 --dry-run")
    async with here.open() as store:
        people = [subject] if subject is not None else await _inactive(here, store, str(inactive_since))
        counted = await _erase_all(here, store, people, asked_for=subject is not None, dry_run=True)
        if not counted.total:
            if subject is not None:
                raise Stop(Exit.NOT_FOUND, "not_found", "Nothing is stored about this person.", hint="Check the identifier.")
            return _tell(here, len(people), counted, dry_run, None)
        if dry_run:
            return _tell(here, len(people), counted, True, None)
        what = f"{counted.total:,} records, objects and documents of {len(people):,} people will be erased."
        here.confirm(what, subject if subject is not None else f"{len(people)}")
        erased = await _erase_all(here, store, people, asked_for=subject is not None, dry_run=False)
        made = store.clock.now().astimezone(UTC).isoformat(timespec="seconds")
    if receipt is not None:
        _write(receipt, _receipt(len(people), erased, made))
    return _tell(here, len(people), erased, False, made)


async def _inactive(here: Context, store: Store, since: str) -> list[str]:
    """Return who was not seen since then, as the blueprint knows it."""
    from palaver.cli.transcripts import transcripts_of
    from palaver.cli.typed import moment

    start = moment(since, store.clock.now())
    transcripts: Any = await transcripts_of(here, store)
    if not hasattr(transcripts, "inactive_users"):
        raise Stop(Exit.USAGE, "inactive", "This schema does not say who is inactive.", hint="Purge one person at a time.")
    return [user async for user in transcripts.inactive_users(start)]


async def _erase_all(here: Context, store: Store, people: list[str], *, asked_for: bool, dry_run: bool) -> Erased:
    from palaver.lifecycle.erase import Erased, erase, scrubbed

    # Who asks to be erased is erased; what is purged for want of activity may be kept without the person in it.
    policy: Any = getattr(await here.home(), "ERASURE" if asked_for else "PURGE", None)
    options = {} if policy is None else {"policy": policy}
    total = Erased()
    with here.out.progress("people", len(people)) as progress:
        for person in people:
            total += await erase(store, person, dry_run=dry_run, scrub=False, **options)
            progress.advance()
    if not dry_run and people:
        await scrubbed(store)
    return total


def _receipt(people: int, erased: Erased, made: str | None) -> dict[str, Any]:
    return {"people": people, "total": erased.total, "at": made, **asdict(erased)}


def _write(path: Path, receipt: dict[str, Any]) -> None:
    path.write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")


def _tell(here: Context, people: int, erased: Erased, dry_run: bool, made: str | None) -> int:
    if here.out.json:
        here.out.emit("purge", {"dry_run": dry_run, **_receipt(people, erased, made)})
        return Exit.OK
    verb = "would be erased" if dry_run else "erased"
    rows: list[tuple[str, str, int]] = []
    for name, value in asdict(erased).items():
        rows += [(name, entity, count) for entity, count in value.items()] if isinstance(value, dict) else [(name, "", value)]
    here.out.table(("what", "of", "count"), [row for row in rows if row[2]], right=("count",))
    here.out.say(f"{erased.total:,} {verb}, of {people:,} {'person' if people == 1 else 'people'}")
    return Exit.OK
