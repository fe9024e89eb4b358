"""The turns' tests use Baller's fixtures."""

from tests.blueprints.baller.conftest import baller, clock, opened, url

__all__ = ["baller", "clock", "opened", "url"]
