"""`palaver config`: every setting, and who set it."""

from __future__ import annotations

from cyclopts import App, Parameter

from palaver.cli.context import Context, Here
from palaver.cli.exits import Exit
from palaver.cli.output import emits
from palaver.cli.problems import Stop
from palaver.cli.settings import OWN, SECRETS, SHARED, Setting

app = App(name="config", help_format="plaintext", help_formatter="plain", default_parameter=Parameter(negative=(), show_default=False))


@app.command
@emits("config")
def show(*, here: Here) -> int:
    """Print every setting, its value and what set it. Passwords in URLs and keys are masked.

    The strongest wins: flags, then the profile --profile names, then the environment (PALAVER_URL, or PALAVER_URL_FILE with the
    name of a file that holds it), then the profile PALAVER_PROFILE names, then palaver.toml, then [tool.palaver] in
    pyproject.toml beside it, then defaults.
    """
    rows = [_row(setting) for setting in (*_in_force(here), *_secrets())]
    for text in (*_misspelt(), *_exposed(here)):
        here.out.say(f"! {text}")
    if here.out.json:
        here.out.emit("config", {"data": rows})
        return Exit.OK
    here.out.table(("setting", "value", "set by"), [(row["name"], row["value"] or "-", _told(row)) for row in rows])
    return Exit.OK


@app.command
@emits("config_path")
def path(*, here: Here) -> int:
    """Print the files in force: palaver.toml, and pyproject.toml where it has [tool.palaver]. Exits 3 where there is none.

    The nearest folder that has one counts, from the working folder up to the repository's; without a repository the working
    folder only.
    """
    from palaver.cli.settings import config_files, folders

    found = [str(file.path) for file in config_files()]
    looked = [str(folder) for folder in folders()]
    if not found:
        places = f"{looked[0]} or the {len(looked) - 1} folders above it" if len(looked) > 1 else (looked or ["a folder that is gone"])[0]
        raise Stop(
            Exit.NOT_FOUND, "no_config", f"There is no {OWN}, and no {SHARED} with [tool.palaver], in {places}.", hint=f"Write a {OWN}."
        )
    if here.out.json:
        here.out.emit("config_path", {"files": found, "looked_in": looked})
    else:
        for each in found:
            here.out.write(each)
    return Exit.OK


def _in_force(here: Context) -> list[Setting]:
    settings = here.settings
    unset = Setting("url", here.where, "default", "palaver.db, or the demonstration where only that is")
    return [setting if setting.value or name != "url" else unset for name, setting in settings.items()]


def _secrets() -> list[Setting]:
    """Return the settings that only the environment has. What is in them is not read."""
    from palaver.cli.addresses import MASK
    from palaver.environment import said_by

    said = {name: said_by(variable) for name, variable in SECRETS.items()}
    return [Setting(name, MASK, "environment", by) if by else Setting(name) for name, by in said.items()]


def _row(setting: Setting) -> dict[str, str | None]:
    from palaver.cli.addresses import masked

    value = masked(setting.value) if setting.value and setting.name == "url" else setting.value
    named = {"name": setting.name, "value": value, "source": setting.source}
    return {**named, "origin": setting.origin or None, "overruled_by": setting.overruled_by or None}


def _told(row: dict[str, str | None]) -> str:
    if row["source"] == "default":
        return "default"
    return f"{row['origin']}, overruled by {row['overruled_by']}" if row["overruled_by"] else str(row["origin"])


def _misspelt() -> list[str]:
    """Name variables that are nearly one of ours."""
    import os
    from difflib import get_close_matches

    from palaver.cli.settings import NAMES

    ours = [*(f"PALAVER_{name.upper()}" for name in (*NAMES, "profile")), *SECRETS.values()]
    ours += [f"{name}_FILE" for name in ours]
    strange = [name for name in os.environ if name.startswith("PALAVER_") and name not in ours]
    near = {name: get_close_matches(name, ours, n=1, cutoff=0.85) for name in sorted(strange)}
    return [f"{name} is no setting; did you mean {found[0]}?" for name, found in near.items() if found]


def _exposed(here: Context) -> list[str]:
    """Say where a password lies in a file that is kept with the code."""
    from palaver.cli.addresses import masked

    url = here.settings["url"]
    if url.folder is None or not url.value or masked(url.value) == url.value:
        return []
    return [f"the URL in {url.origin} holds a password; PALAVER_URL_FILE keeps it out of what is kept with the code"]
