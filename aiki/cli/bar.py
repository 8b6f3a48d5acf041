"""A progress bar on standard error: one line that is written over, and nothing at all where that is no terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from aiki.cli.common import printable

_WIDTH: Final = 24
_CLEAR: Final = "\r\x1b[K"

Show = Callable[[float | None, str], None]
"""Takes how much is done, from 0 to 1 (None: unknown), and words."""


@contextmanager
def progress(label: str) -> Iterator[Show]:
    """Show how far something is; the line is gone afterwards."""
    if not sys.stderr.isatty():
        yield lambda _share, _words: None
        return

    def show(share: float | None, words: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(_CLEAR + line(label, share, words)[:width])
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write(_CLEAR)
        sys.stderr.flush()


def line(label: str, share: float | None, words: str) -> str:
    """The text that is shown."""
    if share is None:
        return printable(f"{label} … {words}")
    full = round(_WIDTH * min(1.0, max(0.0, share)))
    return printable(f"{label} [{'#' * full}{'-' * (_WIDTH - full)}] {share:4.0%} {words}")
