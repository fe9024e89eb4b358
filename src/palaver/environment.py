"""Settings of the environment: `NAME`, or `NAME_FILE`, which names a file with the value in it, as containers are given secrets."""

from __future__ import annotations

import os
from pathlib import Path

from palaver.errors import ConfigError


def said_by(name: str) -> str | None:
    """Return which variable says something of a setting: `NAME` or `NAME_FILE`; None where neither does. An empty one says nothing.

    Raises ConfigError where both do.
    """
    said = [each for each in (name, f"{name}_FILE") if os.environ.get(each)]
    if len(said) > 1:
        raise ConfigError(f"{name} and {name}_FILE are both set.", hint="Unset one of them.")
    return said[0] if said else None


def file_of(name: str) -> Path | None:
    """Return the file `NAME_FILE` names; None where that is not what says something."""
    said = said_by(name)
    return None if said in (None, name) else Path(os.environ[f"{name}_FILE"])


def value_of(name: str) -> str:
    """Return what the environment says of a setting, "" where it says nothing. Blanks around a file's text are not part of it.

    Raises ConfigError where both variables are set, and where the file cannot be read or holds nothing.
    """
    file = file_of(name)
    if file is None:
        return os.environ.get(name, "")
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            f"The file {name}_FILE names cannot be read: {error.strerror}.", hint="Check the path, its owner and its mode."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"The file {name}_FILE names is no UTF-8 text.", hint="Write the value into it, and nothing else.") from None
    if not text:
        raise ConfigError(f"The file {name}_FILE names holds nothing.", hint="Write the value into it, and nothing else.")
    return text
