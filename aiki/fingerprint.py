"""What an error is known by: its type, its message without what differs from run to run, and the function that raised it.

Two runs that failed of the same cause have the same fingerprint, whatever ids, numbers, times and quoted values their messages
hold, and wherever in the file the function has moved by then.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

MAX_MESSAGE: Final = 300

_VARIABLE: Final = re.compile(
    r"""
    (?P<quoted> '[^'\n]*' | "[^"\n]*" | `[^`\n]*` )
    | (?P<hex> \b0x[0-9a-fA-F]+\b | \b[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}\b | \b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{12,}\b )
    | (?P<number> \d+(?:[.,:_-]\d+)* )
    """,
    re.VERBOSE,
)
_FRAME: Final = re.compile(r'^\s*File "([^"\n]+)", line \d+, in (\S+)', re.MULTILINE)


def fingerprint(error_type: str | None, message: str | None, traceback: str = "") -> bytes:
    """16 bytes that runs with the same error share."""
    parts = (error_type or "", normalised(message or ""), top_frame(traceback))
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).digest()[:16]


def normalised(message: str) -> str:
    """A message's first line without what differs from run to run."""
    first = message.strip().split("\n", 1)[0][:MAX_MESSAGE]
    return _VARIABLE.sub(lambda found: "'…'" if found["quoted"] else "#", first)


def top_frame(traceback: str) -> str:
    """Where it was raised: the file's last two parts and the function, without the line. Empty if the traceback names none."""
    frames = _FRAME.findall(traceback)
    if not frames:
        return ""
    path, function = frames[-1]
    return f"{'/'.join(path.replace(chr(92), '/').split('/')[-2:])}:{function}"
