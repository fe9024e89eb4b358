"""`palaver purge`: erase what is stored about people, with a receipt."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from palaver.cli.context import Context, Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.lifecycle.purge import Purged
    from palaver.store import Store


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """Who else, and what is kept of it: the options of the command."""

    inactive_since: str | None = None
    """Instead of one person: everybody not seen since then, such as 90d or 2026-08-01."""
    dry_run: bool = False
    """Only count."""
    receipt: Path | None = None
    """Write the receipt into this file as well."""


AT_ONCE = Asked()


@emits("purge")
async def purge(subject: str | None = None, /, *, asked: Asked = AT_ONCE, here: Here) -> int:
    """Erase everything about a person, in records, history, objects, indexes and archives; or about people long inactive.

    What would go is counted first. On a terminal the person's identifier has to be typed; elsewhere --yes is needed.

    Parameters
    ----------
    subject
        Whom.
    """
    if (subject is None) == (asked.inactive_since is None):
        raise Stop(Exit.USAGE, "usage", "Purge takes one person, or --inactive-since.", hint="palaver purge 2010 --dry-run")
    from palaver.lifecycle.erase import remaining

    async with here.open() as store:
        erasing = await _erasing(here, store, subject, asked.inactive_since)
        counted = await erasing(True)
        if subject is not None and not counted.erased.total:
            raise Stop(Exit.NOT_FOUND, "not_found", "Nothing is stored about this person.", hint="Check the identifier.")
        if asked.dry_run or not counted.erased.total:
            return _tell(here, counted, asked.dry_run, None, remaining(store))
        people = f"{counted.persons:,} {'person' if counted.persons == 1 else 'people'}"
        what = f"Erasing {counted.erased.total:,} records, objects and documents of {people}"
        here.confirm(what, subject if subject is not None else f"{counted.persons}")
        with _written(asked.receipt) as write:
            erased = await erasing(False)
            made, stays = store.clock.now().astimezone(UTC).isoformat(timespec="seconds"), remaining(store)
            write(_receipt(erased, made, stays))
    return _tell(here, erased, False, made, stays)


async def _erasing(here: Context, store: Store, subject: str | None, since: str | None) -> Callable[[bool], Awaitable[Purged]]:
    """Return what erases one person, or everybody inactive as the module of the schema knows it; called with True it only counts."""
    from palaver.cli.typed import moment
    from palaver.lifecycle.erase import erase
    from palaver.lifecycle.personal import Policy
    from palaver.lifecycle.purge import MASK, Purged, purge_inactive

    home = await here.home()
    if subject is not None:
        # Who asks to be erased is erased; what is purged for want of activity may be kept without the person in it.
        policy = getattr(home, "ERASURE", Policy())

        async def one(dry_run: bool) -> Purged:
            return Purged(1, await erase(store, subject, policy=policy, dry_run=dry_run))

        return one
    find = getattr(home, "users_inactive_since", None)
    if find is None:
        hint = "Beside the schema: def users_inactive_since(moment) -> Query; or purge one person at a time."
        raise Stop(Exit.USAGE, "inactive", f"{home.__name__} does not say who is inactive.", hint=hint)
    inactive = find(moment(str(since), store.clock.now()))

    async def many(dry_run: bool) -> Purged:
        with here.out.progress("people") as progress:
            return await purge_inactive(store, inactive, policy=getattr(home, "PURGE", MASK), dry_run=dry_run, advance=progress.advance)

    return many


def _receipt(purged: Purged, made: str | None, stays: list[str]) -> dict[str, Any]:
    return {"people": purged.persons, "total": purged.erased.total, "at": made, **asdict(purged.erased), "remains": stays}


@contextmanager
def _written(path: Path | None) -> Iterator[Callable[[dict[str, Any]], object]]:
    """Give what writes a receipt into a new file, made before anybody is erased: who was has no second receipt."""
    if path is None:
        yield lambda receipt: None
        return
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        hint = "Name another with --receipt."
        raise Stop(Exit.CONFLICT, "not_empty", f"{path} is there already; it was left as it is.", hint=hint) from None
    with file:
        try:
            yield lambda receipt: file.write(json.dumps(receipt, indent=2) + "\n")
        except BaseException:
            if not file.tell():
                path.unlink()
            raise


def _tell(here: Context, purged: Purged, dry_run: bool, made: str | None, stays: list[str]) -> int:
    people, erased = purged.persons, purged.erased
    if here.out.json:
        here.out.emit("purge", {"dry_run": dry_run, **_receipt(purged, made, stays)})
        return Exit.OK
    verb = "would be erased" if dry_run else "erased"
    rows: list[tuple[str, str, int]] = []
    for name, value in asdict(erased).items():
        rows += [(name, entity, count) for entity, count in value.items()] if isinstance(value, dict) else [(name, "", value)]
    here.out.table(("what", "of", "count"), [row for row in rows if row[2]], right=("count",))
    here.out.say(f"{erased.total:,} {verb}, of {people:,} {'person' if people == 1 else 'people'}")
    for each in stays:
        here.out.say(each)
    return Exit.OK
