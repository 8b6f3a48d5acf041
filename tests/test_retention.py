"""`AIKI_RETENTION`: what may be written, and what is said of the rest."""

from __future__ import annotations

import pytest

from aiki import retention
from aiki.errors import ConfigurationError
from aiki.settings import Settings


def test_one_duration_is_for_all_runs() -> None:
    assert retention.parse("30d") == dict.fromkeys(("cancelled", "completed", "dead", "failed"), 30 * 86400)


def test_what_is_not_named_is_kept() -> None:
    assert retention.parse("completed=7d, failed=12h audit=52w") == {
        "completed": 7 * 86400,
        "failed": 12 * 3600,
        "audit": 52 * 7 * 86400,
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("7", "'7' is no duration"),
        ("completed=7x", "'7x' is no duration"),
        ("running=7d", "there are cancelled"),
        ("completed=7d completed=8d", "given twice"),
        ("7d failed=8d", "'7d'"),
        ("59s", "60 seconds or more"),
        ("completed=-7d", "no duration"),
    ],
)
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Settings.load({"AIKI_RETENTION": text})
