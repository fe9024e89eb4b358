"""Who is in a percentage, and which variant somebody gets: a hash, the same in every process and version, so nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

SHARES = 10_000
"""A share is counted in hundredths of a percent."""


def place(purpose: str, flag: str, salt: str, unit: str) -> int:
    """Return the place of a unit, such as a user, for one purpose of one flag: 0 to 9,999, all alike often.

    Never change how it is computed: everybody would change places.
    """
    # Lengths go in, so that no two ways to write the same text share a place.
    text = "".join(f"{len(part)}:{part}" for part in (purpose, flag, salt, unit))
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") * SHARES >> 64


def takes_part(flag: str, salt: str, unit: str, share: int) -> bool:
    """Say whether a unit is in a share. A share that grows keeps everybody who was in it."""
    return place("share", flag, salt, unit) < share


def variant_of(flag: str, salt: str, unit: str, variants: Sequence[tuple[str, int]]) -> str:
    """Return the variant of a unit; the weights add up to 10,000. Who takes part does not depend on it, nor it on that."""
    at = place("variant", flag, salt, unit)
    for name, weight in variants:
        at -= weight
        if at < 0:
            return name
    raise AssertionError("the weights of an experiment add up to 100 %")
