"""Whether what was stored in one form is read right in another: forms are those of a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

Verdict = Literal["same", "safe", "check", "refuse"]
_RANK: tuple[Verdict, ...] = ("same", "safe", "check", "refuse")
_PLAIN = {"text": ("uuid", "date", "instant_text", "digits", "text of names"), "int": ("instant_ms", "instant_s", "span")}
_PADDED = "digits"


def verdict(old: Any, new: Any) -> Verdict:
    """Say whether values stored as `old` are right when read as `new`.

    "same" and "safe" are; "check" has to be shown for each value; "refuse": the same bytes mean something else.
    """
    if old == new:
        return "same"
    if isinstance(old, str) and isinstance(new, str):
        return _scalars(old, new)
    if is_sealed(old) != is_sealed(new):
        return "refuse"
    if new == "any":
        return "safe"
    if old in ("any", "union") or new == "union":
        return "check"
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        (kind,) = old
        if kind == "sealed":
            # Nobody looks into what is sealed to see whether it can be read.
            inner = verdict(old[kind], new[kind])
            return "refuse" if inner == "check" else inner
        return _models(old[kind], new[kind]) if kind == "model" else verdict(old[kind], new[kind])
    return "refuse"


def is_sealed(form: Any) -> bool:
    return isinstance(form, dict) and "sealed" in form


def _scalars(old: str, new: str) -> Verdict:
    if "object" in (old, new):
        # What lies in its own object is read in pieces, and a value is not.
        return "refuse"
    if new == "any":
        return "safe"
    if "union" in (old, new) or old == "any":
        return "check"
    if old in _PLAIN.get(new, ()):
        # A padded identifier would be read with its zeros.
        return "refuse" if old == _PADDED else "safe"
    if new in _PLAIN.get(old, ()):
        return "check"
    return "safe" if (old, new) in (("int", "float"), ("int", "number")) else "refuse"


def _models(old: Any, new: Any) -> Verdict:
    """A nested model: what is read no more is ignored; what is new is read as its default, so it must have one."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return "refuse"
    return max(_parts(old, new), key=_RANK.index, default="same")


def _parts(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Verdict]:
    for name, part in new.items():
        if name not in old:
            yield "refuse" if part["required"] else "safe"
            continue
        if part["required"] and not old[name]["required"]:
            yield "check"
        yield verdict(old[name]["form"], part["form"])
    if old.keys() - new.keys():
        yield "safe"


def widens(old: tuple[object, ...], new: tuple[object, ...]) -> bool:
    """Say whether every value that passes the old check passes the new one."""
    if not new or old == new:
        return True
    match old, new:
        case ("in", before), ("in", after):
            return bool(set(before) <= set(after))  # type: ignore[call-overload]
        case ("range", low, high), ("range", lower, higher):
            return (lower is None or (low is not None and lower <= low)) and (higher is None or (high is not None and higher >= high))  # type: ignore[operator]
        case ("in", before), ("range", lower, higher):
            return all((lower is None or value >= lower) and (higher is None or value <= higher) for value in before)  # type: ignore[attr-defined]
    return False


def passes(check: tuple[object, ...], value: Any) -> bool:
    """Say whether a stored value passes a check; nothing stored always does."""
    match check:
        case ("in", values):
            return value is None or value in values  # type: ignore[operator]
        case ("range", low, high):
            return value is None or ((low is None or value >= low) and (high is None or value <= high))
    return True
