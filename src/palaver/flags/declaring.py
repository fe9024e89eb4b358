"""What a program declares: its flags and experiments, each with the value that holds while nobody set another, or nobody can be asked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

import orjson
from typing_extensions import TypeVar

from palaver.errors import ConfigError, Validation, did_you_mean
from palaver.flags.splitting import SHARES

T = TypeVar("T", default=Any)
Kind = Literal["bool", "int", "float", "str", "list", "dict"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}")
_TARGET = re.compile(r"[a-z][a-z0-9_]{0,39}")
_KINDS: tuple[tuple[type, Kind], ...] = ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"), (list, "list"), (dict, "dict"))
_TAKEN = frozenset({"self", "flag", "value", "percent", "by", "reason", "everybody", "rollout", "head"})
MOST_INT = 2**53 - 1


@dataclass(frozen=True)
class Flag(Generic[T]):
    """A flag, typed by its default: bool, int, float, str, or JSON in a list or dict.

    The default is what holds where nobody set a value, where what is stored is of another type, and while nothing could be read
    yet; choose the one that is safe. Another `salt` gives a rollout other users.
    """

    name: str
    default: T = field(kw_only=True)
    salt: str = field(default="", kw_only=True)
    about: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError("The name of a flag is 1 to 100 letters, digits and _ . : / -, and begins with a letter or digit.")
        if kind_of(self.default) is None or not _storable(self.default):
            raise ConfigError(f"The default of {self.name} is no bool, int, float, str, list or dict of JSON.", flag=self.name)

    @property
    def kind(self) -> Kind:
        kind = kind_of(self.default)
        assert kind is not None
        return kind

    def copied_default(self) -> T:
        return copied(self.default)

    def accepts(self, value: Any) -> bool:
        """Say whether a value is of the flag's type; a whole number is a float as well, True is no number."""
        kind = kind_of(value)
        return (kind == self.kind or (kind == "int" and self.kind == "float")) and _storable(value)

    def taken(self, value: Any) -> T:
        """Return an accepted value as the flag's type."""
        return float(value) if self.kind == "float" else value  # type: ignore[return-value]

    def check(self, value: Any) -> None:
        """Raise Validation for a value that the flag does not take."""
        if not self.accepts(value):
            raise Validation(f"The flag {self.name} takes {self.kind} values.", hint="Its default says of what type it is.", flag=self.name)


@dataclass(frozen=True)
class Experiment(Flag[str]):
    """A flag whose value is the variant that a user's hash falls on, by weights in percent that add up to 100 (steps of 0.01).

    `percent` of the users take part, the others get the default. A value that is set for everybody ends it.
    """

    variants: Mapping[str, float] = field(kw_only=True)
    percent: float = field(default=100.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.default not in self.variants:
            raise ConfigError(f"The default of {self.name} is none of its variants.", hint=did_you_mean(str(self.default), self.variants))
        for name in self.variants:
            if not _NAME.fullmatch(name):
                raise ConfigError("The name of a variant is made like that of a flag.", flag=self.name)
        weights = tuple((name, share_of(weight)) for name, weight in self.variants.items())
        if sum(weight for _, weight in weights) != SHARES:
            raise ConfigError(f"The weights of {self.name} do not add up to 100.", hint="percent= says how many take part.", flag=self.name)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "share", share_of(self.percent))

    weights: tuple[tuple[str, int], ...] = field(init=False, repr=False, compare=False)
    share: int = field(init=False, repr=False, compare=False)

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.variants

    def check(self, value: Any) -> None:
        if not self.accepts(value):
            raise Validation(f"{self.name} has no such variant.", hint=f"There are: {', '.join(self.variants)}.", flag=self.name)


class FlagSet:
    """The flags of one program, by name.

    `targets` says for what a value can be set, the most particular first: of the values set for a call's targets the first one
    holds. Rollouts and experiments go by the first target. Two sets in one database have two names.
    """

    def __init__(self, *flags: Flag[Any], name: str = "flags", targets: tuple[str, ...] = ("user", "channel")) -> None:
        self.name, self.targets = name, targets
        self.flags = {flag.name: flag for flag in flags}
        if not _NAME.fullmatch(name) or len(name) > 40:
            raise ConfigError("The name of a set of flags is made like that of a flag, of 40 characters at most.")
        if len(self.flags) != len(flags):
            raise ConfigError("Two flags of a set have one name.")
        if not targets or len(set(targets)) != len(targets) or not all(map(_TARGET.fullmatch, targets)) or _TAKEN & set(targets):
            raise ConfigError("Targets are different plain names.", hint=f"These mean something else: {', '.join(sorted(_TAKEN))}.")

    @property
    def unit(self) -> str:
        """The target that rollouts and experiments go by."""
        return self.targets[0]

    def __iter__(self) -> Iterator[Flag[Any]]:
        return iter(self.flags.values())

    def __getitem__(self, flag: str | Flag[Any]) -> Flag[Any]:
        """Return a declared flag; raise Validation for one that is not."""
        name = flag if isinstance(flag, str) else flag.name
        found = self.flags.get(name)
        if found is None:
            raise Validation(f"There is no flag {name}.", hint=did_you_mean(name, self.flags) or "Declare it in the FlagSet.")
        return found

    def check_targets(self, names: Mapping[str, object]) -> None:
        """Raise Validation for a name that is no target: who is not recognised would be nobody in particular."""
        for name in names:
            if name not in self.targets:
                raise Validation(f"{name} is no target of these flags.", hint=did_you_mean(name, self.targets))


def kind_of(value: Any) -> Kind | None:
    """Return of what type a value is; None where no flag has such values."""
    return next((kind for type_, kind in _KINDS if type(value) is type_), None)


def share_of(percent: float) -> int:
    """Return a percentage in hundredths of a percent; raise Validation outside 0 to 100, and between the steps."""
    # True is an int: whoever means everybody says 100.
    share = round(percent * 100) if type(percent) in (int, float) and 0 <= percent <= 100 else -1
    if share < 0 or not math.isclose(share, percent * 100, abs_tol=1e-6):
        raise Validation("A percentage is a number from 0 to 100, in steps of 0.01.")
    return share


def _storable(value: Any) -> bool:
    """Say whether every stack keeps a value as it is."""
    match value:
        case bool() | str() | None:
            return True
        case int():
            return abs(value) <= MOST_INT
        case float():
            return math.isfinite(value)
        case list():
            return all(map(_storable, value))
        case dict():
            return all(isinstance(key, str) for key in value) and all(map(_storable, value.values()))
    return False


def copied(value: T) -> T:
    """Return a value that its taker may change without changing it for others."""
    return orjson.loads(orjson.dumps(value)) if isinstance(value, list | dict) else value
