"""How a store is: each of its parts asked at once, none for longer than a caller waits.

Readiness is whether this process can serve at all: its records answer. What else is away has a declared way of going on, so it
makes the store degraded and not unready. Liveness is not asked here: a process that answers is alive, and one that is restarted
because a database is away only adds its start to the load.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from palaver.caching import Limit, Take
from palaver.errors import PalaverError
from palaver.system import system
from palaver.upkeep import Upkeep

if TYPE_CHECKING:
    from palaver.core import Core
    from palaver.feed import Runner

State = Literal["up", "degraded", "down", "off"]
_LOOKED_AT = 20
_PROBE = Take(Limit("health", 1, 1), "probe")


@dataclass(frozen=True, slots=True)
class Component:
    """One part: "degraded" is one that answers late or not wholly, "off" one that the URL leaves out on purpose.

    `error` is a code of the errors' reference, "timeout", or empty; `detail` never holds a stored value or an address.
    """

    state: State
    ms: float
    error: str = ""
    detail: str = ""


async def health(core: Core, runner: Runner, timeout_s: float) -> dict[str, Any]:
    """Ask every part and return what `Store.health` promises."""
    probes = {name: _asked(probe, timeout_s) for name, probe in _probes(core, timeout_s).items()}
    answers = dict(zip([*probes, "feed"], await asyncio.gather(*probes.values(), _asked(_feed(core, runner), timeout_s)), strict=True))
    feed, told = answers.pop("feed")
    components = {name: component for name, (component, _) in answers.items()}
    if "cache" in components and core.cache_at == "none":
        components["cache"] = Component("off", 0.0, detail="the URL says cache=none")
    if feed.state == "down" and components["records"].state != "down":
        components["records"] = Component("degraded", feed.ms, feed.error, f"the feed does not answer: {feed.detail}")
    state = told or {"feed_head": None, "projections": {}, "waiting": {}}
    return {
        "status": status(components, state["projections"]),
        "ready": components["records"].state != "down",
        "schema": core.schema.name,
        "schema_version": core.schema.version,
        "fingerprint": core.schema.fingerprint,
        "engine": type(core.records).__name__,
        **state,
        "components": {name: asdict(component) for name, component in components.items()},
        "cache": asdict(core.cache.health()),
    }


def status(components: dict[str, Component], projections: dict[str, Any]) -> Literal["ok", "degraded", "down"]:
    """Return how the whole is: down without its records, degraded where anything else is wrong."""
    if components["records"].state == "down":
        return "down"
    failing = any(each["error"] for each in projections.values())
    return "degraded" if failing or any(each.state in ("down", "degraded") for each in components.values()) else "ok"


def _probes(core: Core, timeout_s: float) -> dict[str, Awaitable[Any]]:
    """Return a question for each part that the schema uses; records are asked for one that is always looked up by its key."""
    probes: dict[str, Awaitable[Any]] = {"records": core.records.get((system("schema", "current"),))}
    if core.schema.searches:
        probes["search"] = core.search.ids(next(iter(core.schema.searches)), "", 1)
    if any(declared.blobs for declared in core.schema.entities.values()):
        probes["blobs"] = _objects(core, timeout_s / 2)
    probes["cache"] = core.cache.limiter.peek(_PROBE)
    return probes


async def _asked(probe: Awaitable[Any], timeout_s: float) -> tuple[Component, Any]:
    began = perf_counter()
    error = detail = ""
    answer: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            answer = await probe
    except PalaverError as failed:
        error, detail = failed.code, failed.message
    except TimeoutError:
        error, detail = "timeout", f"no answer within {timeout_s:g} s"
    took = perf_counter() - began
    late = took > timeout_s / 2
    if isinstance(answer, Component):
        return Component(answer.state, round(took * 1_000, 1), answer.error, answer.detail), answer
    state: State = "down" if error else "degraded" if late else "up"
    return Component(state, round(took * 1_000, 1), error, detail or ("it answers slowly" if late else "")), answer


async def _feed(core: Core, runner: Runner) -> dict[str, Any]:
    head = (await core.records.changes(None, 0)).head if core.projections else 0
    return {"feed_head": head, "projections": await runner.state(head), "waiting": await Upkeep(core).waiting()}


async def _objects(core: Core, timeout_s: float) -> Component | None:
    """Ask for an object that a record refers to: a folder that is not mounted, or another bucket, answers and has nothing."""
    keys: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            keys = [key async for key in _references(core)]
    except (PalaverError, TimeoutError):
        # That the records are away they are asked themselves.
        keys = []
    for key in keys or ["palaver/nothing"]:
        if await core.blobs.head(key) is not None:
            return None
    return Component("down", 0.0, "not_found", "objects that records refer to are not there") if keys else None


async def _references(core: Core) -> AsyncIterator[str]:
    """Yield keys of objects that some of the records refer to."""
    for declared in core.schema.entities.values():
        if declared.blobs:
            codec = core.planner.codec(declared.entity)
            for record in (await core.records.scan(declared.table.name, after=None, limit=_LOOKED_AT)).records:
                for key in codec.references(record)[:1]:
                    yield key
