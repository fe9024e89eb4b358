"""What type checkers see of an error; mypy and pyright read this file, pytest runs it."""

from collections.abc import Mapping
from typing import Any, assert_type

from palaver.errors import NotFound, PalaverError


def test_an_error_is_typed() -> None:
    error = NotFound("There is no such record.", entity="Message")

    assert_type(error.code, str)
    assert_type(error.status, int)
    assert_type(error.retryable, bool)
    assert_type(error.context, Mapping[str, Any])
    assert isinstance(error, PalaverError)
