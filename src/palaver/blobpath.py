"""Where a large value goes: tenant, subject, the declaration's readable path, then the hash of the bytes.

One prefix holds all objects of one person; a key is never used for other bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from string import Formatter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from palaver.errors import Validation
from palaver.markers import Blob

if TYPE_CHECKING:
    from palaver.declared import Declared
    from palaver.entity import Entity

LONGEST, KEPT = 120, 60
NOBODY = "-"
ARCHIVE = "archive"
"""The first segment of what is archived; no tenant's objects lie below it."""

_TAKEN = (NOBODY, ARCHIVE)


def segment(text: str) -> str:
    """Return a text as one path segment: never empty, never `.` or `..`, and no two texts share one.

    Reversible up to 120 characters; what is longer is cut and ends in a hash, because a whole path has 1,024 bytes.
    """
    # Only what was cut holds a tilde, so nobody can choose a name that ends like somebody's hash.
    safe = quote(text, safe="@+=,").replace("~", "%7E")
    if len(safe) > LONGEST:
        return f"{safe[:KEPT]}~{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
    if safe in _TAKEN:
        return f"%{ord(safe[0]):02X}{safe[1:]}"
    return safe.replace(".", "%2E") if safe in (".", "..") else safe or "%"


def subject_prefix(tenant: str | None, subject: str | None) -> str:
    """Return the prefix under which every object of one person lies."""
    return f"{segment(tenant) if tenant else NOBODY}/{segment(subject) if subject else NOBODY}/"


class _Segments(Formatter):
    """Fills a path in with texts that are segments, also those inside of nested values."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        value, first = super().get_field(field_name, args, kwargs)
        return segment(value) if isinstance(value, str) else value, first


_SEGMENTS = _Segments()


def blob_key(declared: Declared, marker: Blob, entity: Entity, digest: str, tenant: str | None) -> str:
    subject: Any = getattr(entity, declared.subject.name) if declared.subject else None
    try:
        path = _SEGMENTS.vformat(marker.path, (), entity.__dict__)
    except (KeyError, ValueError, AttributeError, IndexError, TypeError):
        raise Validation(
            f"The blob path of {declared.name} could not be filled in.",
            hint="It may name only fields that have a value.",
            entity=declared.name,
        ) from None
    return f"{subject_prefix(tenant, None if subject is None else str(subject))}{path}/{digest}"
