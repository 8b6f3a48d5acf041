"""A file has one noun and a function one thought: no file of the package is longer than 500 lines, no function than 60."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "aiki"
LINES_OF_A_FILE = 500
LINES_OF_A_FUNCTION = 60
TOO_LONG_FILES = frozenset({"broker/amqp_session.py", "storage/database.py", "storage/tables.py"})
"""They are to become shorter. Nothing is added here."""
TOO_LONG_FUNCTIONS = frozenset({"storage/database.py: _mysql_engine"})


def files() -> Iterator[tuple[str, str]]:
    """The name and the text of each module, except for migrations: those are written once and never changed."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("storage/migrations/"):
            yield name, path.read_text()


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_file_is_too_long() -> None:
    too_long = {name for name, text in files() if len(text.splitlines()) > LINES_OF_A_FILE}
    assert not too_long - TOO_LONG_FILES, "split them by what they are about"
    assert not TOO_LONG_FILES - too_long, "they are short enough now: take them off the list"


def test_no_function_is_too_long() -> None:
    too_long = {
        f"{name}: {node.name}"
        for name, text in files()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > LINES_OF_A_FUNCTION
    }
    assert not too_long - TOO_LONG_FUNCTIONS, "take parts out of them"
    assert not TOO_LONG_FUNCTIONS - too_long, "they are short enough now: take them off the list"
