"""The turns' tests use Baller's fixtures."""

from tests.blueprints.baller.conftest import baller, clock, objects, opened, stack, url

__all__ = ["baller", "clock", "objects", "opened", "stack", "url"]
