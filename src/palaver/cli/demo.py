"""`palaver demo`: a database to look at, made from real football results and conversations of our own about them."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from palaver.cli.context import DEMO, Context, Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop

if TYPE_CHECKING:
    from palaver.blueprints.baller.facts import Facts
    from palaver.blueprints.baller.playing import Played, PlayedClock
    from palaver.store import Store

DEFAULT = "baller"


Size = Literal["s", "m", "l"]


@emits("demo")
async def demo(*, path: Path | None = None, size: Annotated[Size, Parameter(show_default=True)] = "s", here: Here) -> int:
    """Make a database of real conversations to look at: real football results, asked and answered.

    Parameters
    ----------
    path
        The file to make; ./palaver-demo.db if none is named, and where --url names a server, that is filled instead.
        A file that is no demonstration is never replaced, and neither is anything on a server.
    size
        s: 60 conversations, m: 400, l: 2,000.
    """
    began = time.monotonic()
    played_by = _played_by(here.blueprint or DEFAULT)
    place = _place(path, here)
    replaced = await _make_room(place, here)
    from palaver.blueprints.baller.facts import facts

    known = facts()
    played = await _play(here, place, size, known, played_by)
    _tell(here, place, played, played_by.TRIES, known, time.monotonic() - began, replaced)
    return Exit.OK


async def _play(here: Context, place: Path | str, size: Size, known: Facts, played_by: Any) -> Played:
    """Play the conversations into a new database as if they had been held until now."""
    from palaver.blueprints.baller.playing import PlayedClock
    from palaver.blueprints.baller.traffic import SPAN_S, dialogues
    from palaver.clock import SystemClock

    now = SystemClock().now().replace(microsecond=0)
    begins = now - timedelta(seconds=SPAN_S)
    clock = PlayedClock(begins)
    traffic = dialogues(known, size)
    here.out.step("playing conversations into the new database")
    async with _opened(place, clock, here.blueprint or DEFAULT) as store:
        with here.out.progress("conversations", len(traffic)) as progress:
            played: Played = await played_by.play(store, clock, begins, known, traffic, progress.advance)
        clock.to(now)
        # Metrics are records as well: what they wrote is itself a change, which the second round sees.
        await store.settle(timeout=30)
        await store.settle(timeout=30)
        await _mark(store, size)
    return played


def _played_by(name: str) -> Any:
    """Return the module that plays the traffic into a blueprint: it has `play` and `TRIES`."""
    from importlib import import_module

    from palaver import blueprints
    from palaver.cli.context import blueprint

    blueprint(name)
    try:
        return import_module(f"{blueprints.BLUEPRINTS[name]}.playing")
    except ModuleNotFoundError as error:
        if error.name != f"{blueprints.BLUEPRINTS[name]}.playing":
            raise
        raise Stop(Exit.USAGE, "no_demo", f"{name} has no demonstration.", hint="Leave out --blueprint.") from None


def _place(path: Path | None, here: Context) -> Path | str:
    """Return the file to make, or the URL of the server to fill."""
    from palaver.url import parse_url

    if path is not None and here.url is not None:
        raise Stop(Exit.USAGE, "usage", "Both --path and --url say where the demonstration goes.", hint="Give one of them.")
    if here.url is None:
        return path or Path(DEMO)
    parsed = parse_url(here.url)
    return Path(parsed.path) if parsed.scheme == "sqlite" else here.url


@asynccontextmanager
async def _opened(place: Path | str, clock: PlayedClock, blueprint: str) -> AsyncIterator[Store]:
    """Open the new database. A demonstration can be made again, so commits to a file need not outlive a power cut one by one."""
    from palaver import blueprints
    from palaver.config import open as open_store

    package = blueprints.load(blueprint)
    url = f"sqlite:///{place}?sync=normal" if isinstance(place, Path) else place
    build = getattr(package, "PROJECTIONS", ())
    async with open_store(url, schema=package.SCHEMA, clock=clock, projections=build, maintain=False, actor="demo") as store:
        yield store


async def _make_room(place: Path | str, here: Context) -> bool:
    """Remove an earlier demonstration; refuse any other file, and a server that holds anything of a schema."""
    from palaver.errors import PalaverError

    if isinstance(place, str):
        if await here.kept() is not None:
            raise Stop(
                Exit.CONFLICT,
                "not_empty",
                "The server holds a Palaver schema there already; it was left as it is.",
                hint="Name an empty database, or another schema= or prefix, with --url.",
            )
        return False
    path = place
    if not _exists(path):
        return False
    try:
        kept = await Context(here.out, url=str(path)).kept()
    except PalaverError:
        kept = None
    if kept is None or not kept.demo:
        raise Stop(
            Exit.CONFLICT, "not_a_demo", f"{path} exists and is no demonstration; it was left as it is.", hint="Name another with --path."
        )
    _remove(path)
    return True


def _exists(path: Path) -> bool:
    if not path.exists() and not path.parent.is_dir():
        raise Stop(Exit.NOT_FOUND, "no_folder", f"There is no folder {path.parent}.", hint="Make it, or name another with --path.")
    return path.exists()


def _remove(path: Path) -> None:
    from palaver.config import beside

    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        file.unlink(missing_ok=True)
    shutil.rmtree(beside(str(path)), ignore_errors=True)


async def _mark(store: Store, size: Size) -> None:
    """Note in the file that it is a demonstration, so that it may be replaced by one."""
    from palaver.ops import Put, WriteSet
    from palaver.system import system

    put = Put(system("demo", "made"), {"scope": "demo", "name": "made", "body": {"size": size}})
    await store.core.records.write(WriteSet((put,), store.core.now_us()))


def _program() -> str:
    """Return how this program is called: by its name where a shell finds it, and else as it was."""
    return "palaver" if shutil.which("palaver") else shlex.quote(sys.argv[0]) if sys.argv[0].endswith("palaver") else "python -m palaver"


def _tell(here: Context, place: Path | str, played: Played, tries: Sequence[str], known: Facts, took: float, replaced: bool) -> None:
    out = here.out
    # A server's URL may hold a password, so it is not said again.
    path = str(place) if isinstance(place, Path) else ""
    if out.json:
        body = {"path": path, "replaced": replaced, "results": known.matches, "seconds": round(took, 3), **asdict(played)}
        out.emit("demo", body)
        return
    at = "" if path == DEMO else f" -u {path}" if path else ' -u "$URL"'
    lines = (
        f"{known.matches:,} real results of {len(known.clubs)} clubs (openfootball, CC0) to talk about",
        f"{played.conversations:,} conversations of {played.users} people · {played.messages:,} messages · {played.calls:,} calls · "
        f"{played.failures} failures · {played.ratings} ratings, in {took:.1f} s",
        f"everything is in {path or 'the database that --url names'}",
        "",
        "try next:",
        *(f"  {_program()} {each.format(example=played.example)}{at}" for each in tries),
    )
    for number, line in enumerate(lines):
        out.print(f"✓ {line}" if number < 3 else line)
