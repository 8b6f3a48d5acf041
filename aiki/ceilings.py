"""How much of everything there may be at once: the limits in bytes and counts that keep memory and messages bounded.

Limits that operators set are in `aiki.settings`; `docs/guides/limits.md` tells both, and a test compares them.
"""

from __future__ import annotations

from typing import Final

# ---------------------------------------------------------------- messages
MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of the largest message, unless `AIKI_MAX_MESSAGE` says otherwise: what RabbitMQ 4 takes by default."""
MESSAGE_ROOM: Final = 64 * 1024
"""Bytes of a message that are kept for what goes with a payload."""
REPORT_BYTES: Final = 1024 * 1024
"""A list of reports, or of a workflow's steps, that is larger goes as several messages; one that cannot be cut goes alone."""
DISPATCH_BYTES: Final = 256 * 1024
"""The same of a list of dispatches, published or given back."""
DISPATCH_RUNS: Final = 50
HISTORY_INLINE: Final = 1024 * 1024
"""Bytes of a history that a dispatch carries. The largest values of a longer one stay outside, to be fetched when looked at."""
HISTORY_FULL: Final = 12 * 1024 * 1024
"""The same where a worker of an earlier release may take it, which cannot fetch."""
SMALL_VALUE: Final = 256
"""Bytes of a value that is never left out."""
FETCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes of values that one question asks for, and its answer carries; a larger value goes alone."""
FETCH_VALUES: Final = 5_000
"""Values that one question asks for."""
FAN_OUT_BYTES: Final = 32 * 1024 * 1024
"""Bytes of submissions that a workflow's process keeps until its function waits for something: a fan-out that is more than a
history may hold is refused before its first run starts. What is larger than this starts part by part."""
CONTROL_RUNS: Final = 2000
"""Runs that one control message names."""

# ---------------------------------------------------------------- the database
CLAIM_BYTES: Final = 16 * 1024 * 1024
"""Bytes of inputs and histories that one transaction loads for dispatches; what is due beside them is taken by the next one."""
STEPS_AT_ONCE: Final = 2_000
"""Steps of histories that are looked at before it is decided which of their values are loaded; a longer history alone."""

# ---------------------------------------------------------------- events
EVENTS: Final = 1_000
"""Events that are kept for a workflow's run which does not wait for them yet."""
EVENT_BYTES: Final = 16 * 1024 * 1024
"""Bytes of their data together."""
