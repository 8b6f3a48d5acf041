"""SQLite databases with the newest schema, copied from one that the migrations made: to run them takes ten times as long."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from aiki.storage import upgrade


def sqlite_database(path: Path) -> str:
    """The URL of a database at `path`, made now unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_template(), path)
    return f"sqlite:///{path}"


@cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="aiki-schema-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "aiki.db"
    upgrade(f"sqlite:///{path}")  # its connection is the last one, so that nothing is left in a WAL file
    return path
