"""What the glossary and the other pages say of modules and tables is true: those that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aiki.storage.tables import metadata

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
TERM = re.compile(r"\*\*([A-Z][^*]+)\*\*")


def test_each_table_is_named_and_each_named_table_exists() -> None:
    named = set(re.findall(r"`(aiki_[a-z_]+)`", GLOSSARY))
    tables = {table.name for table in metadata.sorted_tables}
    assert named == tables, f"missing in the glossary: {tables - named}; no such tables: {named - tables}"


def test_each_term_is_explained_once() -> None:
    terms = TERM.findall(GLOSSARY)
    assert len(terms) > 60
    assert sorted(terms) == sorted(set(terms))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_module_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`(aiki/[A-Za-z0-9_/]*(?:\.[a-z]+)?)`", page.read_text()))
    gone = sorted(name for name in named if not (ROOT / name).exists())
    assert not gone, f"{page.name} names what is not there: {gone}"
