"""Complete application schemas with their operations, found by name."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from palaver.errors import ConfigError, did_you_mean

BLUEPRINTS = {"baller": "palaver.blueprints.baller", "simple_agent": "palaver.blueprints.simple_agent"}


def load(name: str) -> ModuleType:
    """Return the package of a blueprint: its `SCHEMA`, its entities and its operations; raise ConfigError for another name."""
    if name not in BLUEPRINTS:
        raise ConfigError("There is no blueprint of this name.", hint=did_you_mean(name, BLUEPRINTS))
    return import_module(BLUEPRINTS[name])
