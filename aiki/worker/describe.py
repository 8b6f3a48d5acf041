"""Errors of user code as text: whatever they are, without ever raising.

User exceptions may fail in `__str__`, lie about their type, or be too large to show; the run must still fail readably.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from types import TracebackType
from typing import NamedTuple

from aiki.retry import qualified_name

MAX_TYPE = 200
MAX_MESSAGE = 4 * 1024
MAX_TRACEBACK = 64 * 1024

_OURS = (os.path.dirname(__file__) + os.sep, os.path.dirname(asyncio.__file__) + os.sep)


class Described(NamedTuple):
    """An error as a report carries it; each part is cut to its limit and free of lone surrogates."""

    type: str
    message: str
    traceback: str


def describe(error: BaseException) -> Described:
    """The error's type, message and traceback."""
    return Described(type_name(error), message_of(error), traceback_of(error))


def type_name(error: BaseException) -> str:
    """The qualified name of the error's type."""
    try:
        return _clean(qualified_name(type(error)), MAX_TYPE)
    except BaseException:  # noqa: BLE001  a metaclass of user code may do anything
        return "Exception"


def message_of(error: BaseException) -> str:
    """The error's text."""
    try:
        return _clean(str(error), MAX_MESSAGE)
    except BaseException as failure:  # noqa: BLE001  a __str__ of user code may do anything
        return f"(its message cannot be shown: __str__ raised {type_name(failure)})"


def traceback_of(error: BaseException) -> str:
    """The traceback with its causes, without the worker's own frames."""
    try:
        frames = _user_frames(error.__traceback__)
        lines = traceback.TracebackException(type(error), error, frames, compact=True).format()
        return _clean("".join(lines), MAX_TRACEBACK)
    except BaseException as failure:  # noqa: BLE001  user code again: __str__, __cause__, source that vanished
        reason = f"(the traceback cannot be shown in full: formatting it raised {type_name(failure)})\n"
    try:
        return _clean(reason + "".join(traceback.format_tb(error.__traceback__)), MAX_TRACEBACK)
    except BaseException:  # noqa: BLE001  as above
        return reason


def _user_frames(frames: TracebackType | None) -> TracebackType | None:
    """The frames without Aiki's at the beginning (the executor) and at the end (the signal handler)."""
    while frames is not None and _is_ours(frames):
        frames = frames.tb_next
    last, frame = frames, frames
    while frame is not None:
        if not _is_ours(frame):
            last = frame
        frame = frame.tb_next
    if last is not None:
        last.tb_next = None
    return frames


def _is_ours(frame: TracebackType) -> bool:
    return frame.tb_frame.f_code.co_filename.startswith(_OURS)


def _clean(text: str, limit: int) -> str:
    """`text` as valid UTF-8 of at most about `limit` bytes; a note stands in place of a middle that is left out."""
    if len(text) > 2 * limit:  # do not encode a hundred megabytes to keep four thousand
        left_out = len(text) - 2 * limit
        text = text[:limit] + f"\n[… {left_out:,} characters left out …]\n" + text[-limit:]
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    half = limit // 2 - 30
    left_out = len(raw) - 2 * half
    return f"{raw[:half].decode('utf-8', 'ignore')}\n[… {left_out:,} bytes left out …]\n{raw[-half:].decode('utf-8', 'ignore')}"
