"""`palaver version`: what runs here."""

from __future__ import annotations

from palaver.cli.context import Here
from palaver.cli.output import emits


@emits("version")
def version(*, here: Here) -> None:
    """Print the versions of Palaver, Python and SQLite."""
    found = versions()
    if here.out.json:
        here.out.emit("version", {"versions": found})
    else:
        for name, number in found.items():
            here.out.write(f"{name} {number}")


def versions() -> dict[str, str]:
    import platform

    import apsw

    from palaver import __version__

    return {"palaver": __version__, "python": platform.python_version(), "sqlite": apsw.sqlite_lib_version()}
