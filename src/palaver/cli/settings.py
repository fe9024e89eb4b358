"""Where each setting of a command comes from: a flag, a profile, the environment, palaver.toml, pyproject.toml, or nowhere.

Files are read when a setting is first asked for, so commands that need none read none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from palaver.cli.addresses import from_folder
from palaver.environment import said_by, value_of
from palaver.errors import ConfigError

NAMES = ("url", "schema", "blueprint", "tenant")
SECRETS = {"keys": "PALAVER_KEYS", "seal_keys": "PALAVER_SEAL_KEYS"}
OWN, SHARED = "palaver.toml", "pyproject.toml"
SOURCES = ("flag", "profile", "environment", "environment_profile", OWN, SHARED, "default")
"""The strongest first. Who names a profile with a flag means it, whatever is exported; one the environment names is weaker than that."""


@dataclass(frozen=True)
class Setting:
    """One setting, and who set it: `origin` is the flag, the variable or the file. `folder` is where a file's own names begin."""

    name: str
    value: str | None = None
    source: str = "default"
    origin: str = ""
    folder: Path | None = None
    overruled_by: str = ""


@dataclass(frozen=True)
class ConfigFile:
    """One file that says something, and what; `profiles` are further sets of settings, each used where it is named."""

    path: Path
    settings: Mapping[str, str]
    profiles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """What one place in a file says, as strong as its source."""

    source: str
    origin: str
    folder: Path
    settings: Mapping[str, str]


def settings(flags: Mapping[str, str | None], profile: str | None = None) -> dict[str, Setting]:
    """Return every setting that may lie in a file, each from the strongest source that has it, and which profile is in force.

    Schema and blueprint both say which schema: the one from the stronger source overrules the other.
    Raises ConfigError for a file that cannot be read, or holds what is no setting, and for a profile that no file has.
    """
    said = said_by("PALAVER_PROFILE")
    named = Setting("profile", profile, "flag", "--profile") if profile else Setting("profile")
    if not profile and said:
        named = Setting("profile", value_of("PALAVER_PROFILE"), "environment", said)
    files = [] if not named.value and all(flags.get(name) for name in ("url", "schema", "tenant")) else config_files()
    layers = [Layer(file.path.name, str(file.path), file.path.parent, file.settings) for file in files]
    if named.value:
        layers = [*_of_profile(named.value, files, "profile" if profile else "environment_profile"), *layers]
    chosen = {name: _choose(name, flags.get(name), layers) for name in NAMES}
    schema, blueprint = chosen["schema"], chosen["blueprint"]
    if schema.value and blueprint.value and schema.source != blueprint.source:
        weaker, stronger = sorted((schema, blueprint), key=lambda each: SOURCES.index(each.source), reverse=True)
        chosen[weaker.name] = replace(weaker, overruled_by=stronger.origin)
    return {**chosen, "profile": named}


def _of_profile(name: str, files: list[ConfigFile], source: str) -> list[Layer]:
    """Return what the files say under a profile."""
    found = [
        Layer(source, f"{file.path} [profile.{name}]", file.path.parent, file.profiles[name]) for file in files if name in file.profiles
    ]
    if not found:
        from palaver.errors import did_you_mean

        known = did_you_mean(name, {each for file in files for each in file.profiles})
        raise ConfigError(f"There is no profile {name[:60]}.", hint=known or f"Write it into {OWN}: [profile.{name[:60]}].")
    return found


def _choose(name: str, flag: str | None, layers: list[Layer]) -> Setting:
    """Return a setting from the strongest that has it: a flag, then the environment or a layer."""
    if flag:
        return Setting(name, flag, "flag", f"--{name}")
    layer = next((layer for layer in layers if name in layer.settings), None)
    variable = f"PALAVER_{name.upper()}"
    said = said_by(variable)
    if said and (layer is None or SOURCES.index("environment") < SOURCES.index(layer.source)):
        return Setting(name, value_of(variable), "environment", said)
    if layer is None:
        return Setting(name)
    value = layer.settings[name]
    if name == "url" and layer.folder != Path.cwd():
        value = from_folder(value, layer.folder)
    return Setting(name, value, layer.source, layer.origin, layer.folder)


# --- files ------------------------------------------------------------------------------------------------------------


def config_files() -> list[ConfigFile]:
    """Return the files of the nearest folder that has any: palaver.toml, then pyproject.toml where it has [tool.palaver]."""
    for folder in folders():
        found = [file for file in (_own(folder / OWN), _shared(folder / SHARED)) if file is not None]
        if found:
            return found
    return []


def folders() -> list[Path]:
    """Return where files are looked for: the working folder and its parents up to the repository's.

    Outside of a repository the working folder only: what lies in /tmp or a home must not decide what a command does.
    """
    try:
        start = Path.cwd()
    except FileNotFoundError:
        return []
    chain = [start, *start.parents]
    root = next((number for number, folder in enumerate(chain) if _is_repository(folder)), 0)
    return chain[: root + 1]


def _is_repository(folder: Path) -> bool:
    try:
        return (folder / ".git").exists()
    except PermissionError:
        return False


def _own(path: Path) -> ConfigFile | None:
    content = _read(path)
    return None if content is None else _config_file(path, _parse(path, content))


def _shared(path: Path) -> ConfigFile | None:
    content = _read(path)
    if content is None or b"palaver" not in content:
        return None
    tool = _parse(path, content).get("tool")
    found = tool.get("palaver") if isinstance(tool, dict) else None
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ConfigError(f"tool.palaver in {path} is no table.", hint="Write [tool.palaver], and the settings under it.")
    return _config_file(path, found)


def _config_file(path: Path, found: Mapping[str, Any]) -> ConfigFile:
    """Return what a file says, and its profiles. Raises ConfigError."""
    profiles = found.get("profile", {})
    if not isinstance(profiles, dict) or not all(isinstance(each, dict) for each in profiles.values()):
        raise ConfigError(
            f"profile in {path} is no table of tables.", hint="Write [profile.dev], and the settings under it; name it with --profile."
        )
    plain = {key: value for key, value in found.items() if key != "profile"}
    return ConfigFile(
        path, _checked(str(path), plain), {name: _checked(f"{path} [profile.{name}]", each) for name, each in profiles.items()}
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", hint="Check its owner and its mode.") from None


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line, why = content.count(b"\n", 0, error.start) + 1, "no UTF-8"
    except tomllib.TOMLDecodeError as error:
        words = str(error)
        found = re.search(r"at line (\d+)", words)
        line = int(found[1]) if found else content.rstrip().count(b"\n") + 1
        why = words.partition(" (at ")[0]
    raise ConfigError(f"{path}, line {line}, is no TOML: {why}.", hint='A setting is written: url = "sqlite:///bot.db".') from None


def _checked(path: str, found: Mapping[str, Any]) -> dict[str, str]:
    """Return what a file says. Raises ConfigError for what is no setting, no text, or a secret."""
    for key, value in found.items():
        bare = key.lower().replace("-", "_").removeprefix("palaver_").removesuffix("_file")
        if bare in SECRETS:
            variable = SECRETS[bare]
            raise ConfigError(
                f"{path} holds {key}: keys do not belong into a file that is kept with the code.",
                hint=f"Take them out, change them, and set {variable}, or {variable}_FILE to a file that only its reader may read.",
            )
        if key not in NAMES:
            from palaver.errors import did_you_mean

            raise ConfigError(
                f"{path} has a setting {key[:60]}, which there is not.",
                hint=did_you_mean(key, (*NAMES, "profile") if key.startswith("prof") else NAMES),
            )
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{key} in {path} is no text, or an empty one.", hint=f'Write {key} = "…", or leave it out.')
    return dict(found)
