"""Values a declaration does not allow, refused with our own error, which never repeats them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from palaver.errors import Validation


@contextmanager
def refusing() -> Iterator[None]:
    """Raise Validation, with the field and the reason, where a record cannot be made of what the caller gave."""
    try:
        yield
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)[0]
        # Only the field: what follows in a free-form map is a name the caller chose.
        field = str(found["loc"][0]) if found["loc"] else "value"
        raise Validation(f"{error.title}.{field} cannot take this value: {found['msg']}.", entity=error.title, field=field) from None
