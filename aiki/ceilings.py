"""How much of everything there may be at once: the limits in bytes and counts that keep memory and messages bounded.

Limits that operators set are in `aiki.settings`; `docs/guides/limits.md` tells both, and a test compares them.
"""

from __future__ import annotations

from typing import Final

EVENTS: Final = 1_000
"""Events that are kept for a workflow's run which does not wait for them yet."""
EVENT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of their data together."""
