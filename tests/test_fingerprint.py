"""Errors are known by what stays the same from run to run."""

from __future__ import annotations

import pytest

from aiki.fingerprint import fingerprint, normalised, top_frame

TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/shop/tasks.py", line {line}, in charge
    raise Declined()
  File "/venv/lib/bank.py", line 3, in post
shop.Declined: no
"""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("order 4711 of 2026-01-02T10:00:05.123", "order # of #T#"),
        ("no such key: 'abc'", "no such key: '…'"),
        ("run 01a20edd-67ff-7012-9b48-fb25e638dd18 is gone", "run # is gone"),
        ("object at 0x7f14546406d0", "object at #"),
        ("deadbeefcafe1234 and facade", "# and facade"),
        ("first\nsecond 5", "first"),
        ("", ""),
    ],
)
def test_what_differs_is_left_out(message: str, expected: str) -> None:
    assert normalised(message) == expected


def test_the_line_does_not_matter() -> None:
    assert top_frame(TRACEBACK) == "lib/bank.py:post"
    assert top_frame("") == ""
    one = fingerprint("Declined", "card 1", TRACEBACK.format(line=7))
    assert one == fingerprint("Declined", "card 22", TRACEBACK.format(line=9))
    assert one != fingerprint("Declined", "card 22", "")
    assert one != fingerprint("Refused", "card 1", TRACEBACK.format(line=7))
    assert len(fingerprint(None, None)) == 16
