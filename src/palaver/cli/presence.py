"""`palaver presence`: who is active where."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from palaver.cli.amounts import Count
from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits


@emits("presence")
async def presence(channel: str | None = None, /, *, limit: Annotated[Count, Parameter(show_default=True)] = 50, here: Here) -> int:
    """Print how many are active in each channel; of one channel, who they are and when each was last seen.

    Parameters
    ----------
    channel
        One channel.
    limit
        So many members at most.
    """
    async with here.running("presence") as (store, there):
        shared = here.warn_of_own_cache(store)
        if channel is None:
            counts = await there.counts()
            members = []
        else:
            members = await there.active(channel, limit=limit)
            counts = await there.counts(channel)
    if here.out.json:
        listed = [{"member": each.member, "last_seen": each.last_seen.isoformat()} for each in members]
        rows = [{"channel": name, "active": count} for name, count in counts.items()]
        here.out.emit("presence", {"channels": rows, "members": listed, "shared": shared})
        return Exit.OK
    if channel is None:
        here.out.table(("channel", "active"), list(counts.items()), right=("active",))
        return Exit.OK
    here.out.table(("member", "last seen"), [(each.member, each.last_seen) for each in members])
    here.out.say(f"{counts[channel]:,} active")
    return Exit.OK
