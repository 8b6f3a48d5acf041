"""`docs/security.md`: the tests that it names for its promises are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_promise_is_held_by_a_test_that_is_there() -> None:
    text = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`(tests/[a-z_/0-9]+\.py)((?:::\w+)*)`", text)
    assert len(named) > 20
    for file, names in named:
        source = (ROOT / file).read_text()
        for name in names.split("::")[1:]:
            assert re.search(rf"^ *(?:def|class) {name}\b", source, re.MULTILINE), f"{file}::{name}"
    promised = text.partition("## What is promised")[2].partition("## What is not defended")[0]
    rows = [line for line in promised.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert all("`tests/" in line for line in rows)
