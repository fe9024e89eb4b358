"""`palaver sweep`: remove what is over."""

from __future__ import annotations

from palaver.cli.amounts import Count
from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits


@emits("sweep")
async def sweep(*, limit: Count | None = None, here: Here) -> int:
    """Delete expired records, finish cascades, remove released objects.

    Parameters
    ----------
    limit
        How many expired records at most.
    """
    async with here.open() as store:
        swept = await store.sweep(limit=limit)
    if here.out.json:
        here.out.emit("sweep", {"expired": swept.expired, "cascaded": swept.cascaded, "objects": swept.objects, "total": swept.total})
        return Exit.OK
    for entity, count in swept.expired.items():
        here.out.print(f"{count:,} expired {entity} records deleted")
    here.out.print(f"{swept.cascaded:,} records went with their parents, {swept.objects:,} objects removed")
    return Exit.OK
