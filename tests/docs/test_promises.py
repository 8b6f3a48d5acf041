"""What README and guides promise is executed by tests: each promise still stands there, and each test that it names exists."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.docs.promises import PROMISES

ROOT = Path(__file__).parents[2]


def in_one_line(text: str) -> str:
    """Text however its lines are broken."""
    return " ".join(text.split())


@cache
def named_in(file: str) -> frozenset[str]:
    """The names of the tests of a file, those of its classes as `Class::test`."""
    path = ROOT / "tests" / file
    assert path.exists(), f"there is no tests/{file}"
    found = set()
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {prefix + item.name for item in inner if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


@pytest.mark.parametrize("page", PROMISES)
def test_what_is_promised_stands_there_still(page: str) -> None:
    text = in_one_line((ROOT / page).read_text())
    gone = [words for words in PROMISES[page] if in_one_line(words) not in text]
    assert not gone, (
        f"{page} says this no more, or otherwise: change it in tests/docs/promises.py and look at its tests: {gone}"
    )


@pytest.mark.parametrize("page", PROMISES)
def test_each_promise_is_executed_by_tests_that_exist(page: str) -> None:
    missing = []
    for words, tests in PROMISES[page].items():
        assert tests, f"nothing executes {words!r}"
        for test in tests:
            file, _, name = test.partition("::")
            if name not in named_in(file):
                missing.append(test)
    assert not missing, f"{page}: no such tests: {missing}"


def test_the_example_of_a_test_that_is_missing_is_found() -> None:
    assert "test_never_is_one_attempt" in named_in("test_retry.py")
    assert "test_that_nobody_has_written" not in named_in("test_retry.py")
