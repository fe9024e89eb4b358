"""`palaver search`: what was said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from datetime import datetime

    from palaver.cli.output import Output
    from palaver.schema import CompiledSearch
    from palaver.searching import Hit, Results


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Where to look, and what of what is found: the options of the command."""

    index: str | None = None
    """Which search index; the first one declared if none is named."""
    where: list[str] | None = None
    """Narrow by a filter of the index: app_mode=beta, timestamp>=7d."""
    facets: list[str] | None = None
    """Count the hits by these filters."""
    newest_first: str | None = None
    """Order by a filter that holds an instant, instead of best first."""
    limit: Annotated[int, Parameter(show_default=True)] = 10
    """How many hits."""
    offset: Annotated[int, Parameter(show_default=True)] = 0
    """How many to leave out first."""


ALL = Wanted()


@emits("search")
async def search(text: str = "", /, *, wanted: Wanted = ALL, here: Here) -> int:
    """Search what was said: words (all of them), "a phrase", prefix*, -without.

    Parameters
    ----------
    text
        What to look for; nothing finds everything the filters allow.
    """
    from palaver.errors import did_you_mean

    async with here.open() as store:
        searches = store.schema.searches
        if not searches:
            raise Stop(Exit.USAGE, "search", f"Schema {store.schema.name} declares no search index.", hint="Declare one: Search(…).")
        chosen = wanted.index or next(iter(searches))
        if chosen not in searches:
            raise Stop(Exit.USAGE, "search", f"There is no search index {chosen[:60]}.", hint=did_you_mean(chosen, searches))
        condition = _narrowed(searches[chosen], wanted.where, store.clock.now())
        options: dict[str, Any] = {
            "where": condition,
            "facets": wanted.facets or (),
            "limit": wanted.limit,
            "offset": wanted.offset,
            "newest_first": wanted.newest_first,
        }
        results = await store.search(chosen, text, **options)
        lag = (await store.health())["projections"].get("search", {}).get("lag", 0)
    if here.out.json:
        _emit(here.out, chosen, results)
    else:
        _print(here.out, results)
    if lag:
        here.out.say(f"note: the index is {lag:,} changes behind; `palaver work --once` catches up.")
    return Exit.OK


def _narrowed(search: CompiledSearch, texts: list[str] | None, now: datetime) -> Any:
    """Read conditions over an index's filters, each typed by the entity the filter comes from."""
    from palaver.cli.typed import both, condition

    parts: list[Any] = []
    for text in texts or ():
        bare: Any = condition(None, text, now)
        path = getattr(bare, "path", None)
        source = next(
            (source for source in search.sources if path is not None and any(name == path.name for name, _, _ in source.filters)), None
        )
        parts.append(condition(source.declared.entity, text, now) if source is not None else bare)
    return both(parts)


def _emit(out: Output, index: str, results: Results) -> None:
    from palaver.cli.plain import plain

    hits = [
        {"entity": type(hit.entity).__name__, "score": round(hit.score, 4), "highlights": dict(hit.highlights), "record": plain(hit.entity)}
        for hit in results
    ]
    facets = {name: [{"value": value, "count": count} for value, count in counts.items()] for name, counts in results.facets.items()}
    out.emit("search", {"index": index, "data": hits, "total": results.total, "facets": facets})


def _print(out: Output, results: Results) -> None:
    from rich.text import Text

    for hit in results:
        line = Text()
        line.append(f"{hit.score:6.2f}  ", style="dim")
        line.append(_about(hit), style="bold")
        out.print(line)
        for marked in hit.highlights.values():
            out.print(_marked(marked))
    for name, counts in results.facets.items():
        out.print(f"\n{name}")
        out.table(("value", "hits"), counts.items(), right=("hits",))
    out.say(f"{len(results):,} of {results.total:,} hits")


def _about(hit: Hit) -> str:
    """Name the record: what `show` takes, whose it is, and when."""
    from palaver.cli.output import harmless

    declared = type(hit.entity).declared()
    key = " ".join(str(getattr(hit.entity, part.path)) for part in declared.access["key"].parts)
    at = next((value for name in ("timestamp", "rating_timestamp", "last_active") if (value := getattr(hit.entity, name, None))), None)
    return harmless(f"{declared.name} {key}" + (f"  {at:%Y-%m-%d %H:%M}" if at else ""))


def _marked(text: str) -> Any:
    """Turn the marks of a highlight into a style."""
    from rich.text import Text

    from palaver.cli.output import harmless

    shown = Text("        ")
    for number, part in enumerate(text.split("**")):
        shown.append(harmless(part), style="bold yellow" if number % 2 else "")
    return shown
