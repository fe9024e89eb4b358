"""`palaver sessions`: the sessions of a user, and ending them. A session is named by its id; tokens are known to nobody here."""

from __future__ import annotations

from cyclopts import App, Parameter

from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop

app = App(name="sessions", help_format="plaintext", help_formatter="plain", default_parameter=Parameter(negative=(), show_default=False))


@app.command(name="list")
@emits("sessions")
async def list_(user: str, /, *, here: Here) -> int:
    """Print the sessions of a user, the newest first.

    Parameters
    ----------
    user
        Whose.
    """
    async with here.running("sessions") as (store, sessions):
        shared = sessions.recorded or here.warn_of_own_cache(store)
        found = await sessions.of(user)
    if here.out.json:
        rows = [{"id": each.id, "started": each.started.isoformat(), "ends": each.ends.isoformat()} for each in found]
        here.out.emit("sessions", {"user": user, "data": rows, "shared": shared})
        return Exit.OK
    here.out.table(("id", "started", "ends"), [(each.id, each.started, each.ends) for each in found])
    here.out.say(f"{len(found):,} sessions")
    return Exit.OK


@app.command
@emits("sessions_ended")
async def end(user: str, /, *, id: str | None = None, here: Here) -> int:
    """End all sessions of a user, or one of them; nobody reads them any more when this returns.

    Parameters
    ----------
    user
        Whose.
    id
        One session, as `palaver sessions list` names it.
    """
    async with here.running("sessions") as (store, sessions):
        shared = sessions.recorded or here.warn_of_own_cache(store)
        if id is None:
            ended = await sessions.end_all(user)
        elif any(each.id == id for each in await sessions.of(user)):
            await sessions.end_by_id(id)
            ended = 1
        else:
            raise Stop(Exit.NOT_FOUND, "no_session", "This user has no such session.", hint="`palaver sessions list` names them.")
    if here.out.json:
        here.out.emit("sessions_ended", {"user": user, "ended": ended, "shared": shared})
    else:
        here.out.print(f"{ended:,} sessions ended")
    return Exit.OK
