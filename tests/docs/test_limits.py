"""The guide of limits says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from aiki import ceilings
from aiki.settings import Settings

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "limits.md"
UNITS = {"": 1, " bytes": 1, " KiB": 1024, " MiB": 1024 * 1024}


def told() -> dict[str, int]:
    """The limits of the guide's tables, by name."""
    rows = re.findall(r"^\| .* \| ([0-9,]+)( bytes| KiB| MiB|) \| `([A-Z_]+)` \|$", GUIDE.read_text(), re.MULTILINE)
    return {name: int(number.replace(",", "")) * UNITS[unit] for number, unit, name in rows}


def test_the_guide_states_every_limit_as_it_is() -> None:
    there = {name: value for name, value in vars(ceilings).items() if name.isupper() and name != "MAX_MESSAGE"}
    settings = Settings.load({})
    for name in ("max_payload", "max_message", "history_steps", "history_bytes"):
        there[f"AIKI_{name.upper()}"] = getattr(settings, name)
    assert told() == there
