"""`palaver keys`: the keys secret fields are sealed with."""

from __future__ import annotations

from cyclopts import App, Parameter

from palaver.cli.context import Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits

app = App(name="keys", help_format="plaintext", help_formatter="plain", default_parameter=Parameter(negative=(), show_default=False))


@app.command
def new(*, here: Here) -> int:
    """Print a new key, and nothing else, for PALAVER_SEAL_KEYS or a file of keys."""
    from palaver.sealing import new_key

    here.out.write(new_key())
    return Exit.OK


@app.command
@emits("keys")
async def status(*, here: Here) -> int:
    """Count the secrets sealed with each key; no value is opened.

    Exits 7 when some are not sealed with the first key, which `palaver keys rotate` mends.
    """
    from palaver.lifecycle.resealing import sealed_with

    async with here.open() as store:
        sealer = store.core.planner.sealer
        first, ids = (sealer.first, sealer.ids) if sealer is not None else ("", [])
        found = await sealed_with(store)
    rows = [(name, key, count) for name, counts in sorted(found.items()) for key, count in sorted(counts.items())]
    if here.out.json:
        secrets = [{"field": name, "key": key, "count": count} for name, key, count in rows]
        here.out.emit("keys", {"seals": first or None, "opens": ids, "secrets": secrets})
    else:
        here.out.table(("field", "key", "count"), rows, right=("count",))
        here.out.say(f"{first} seals" if first else "no field is secret")
    return Exit.OK if all(key == first for _, key, _ in rows) else Exit.DRIFT


@app.command
@emits("keys_rotated")
async def rotate(*, here: Here) -> int:
    """Seal every secret with the first key: in batches, resumable, while the application goes on.

    Every process must have the new key before: behind the old one first, then in front of it. Exits 1 when a secret could
    not be opened; it stays as it is, and its key is still needed.
    """
    from palaver.lifecycle.resealing import rotate as seal_anew

    async with here.open() as store:
        with here.out.progress("records") as progress:
            rotated = await seal_anew(store, lambda words, records: progress.advance(records))
    if here.out.json:
        body = {"resealed": rotated.resealed, "unsealable": rotated.unsealable, "keys": list(rotated.keys)}
        here.out.emit("keys_rotated", body)
    else:
        here.out.print(f"{rotated.resealed:,} records sealed anew; keys in use: {', '.join(rotated.keys)}")
        if rotated.unsealable:
            here.out.say(f"{rotated.unsealable:,} secrets cannot be opened and stay as they are")
    return Exit.FAILURE if rotated.unsealable else Exit.OK
