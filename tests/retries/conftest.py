"""A fleet on a SQLite database."""

from tests.deploys.conftest import fleet

__all__ = ["fleet"]
