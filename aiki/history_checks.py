"""Whether what is said to be a part of a workflow's history is one: types and ranges of steps, arrivals, waits and options.

The parts themselves are in `aiki.history`, the checks of single values in `aiki.fields`.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aiki import fields as f
from aiki.ids import parse_id
from aiki.retry import RetryPolicy

MAX_STEPS: Final = 1_000_000
"""Steps, arrivals or waits in one message."""


def _is_policy(value: Any) -> bool:
    try:
        RetryPolicy.from_wire(value)
    except Exception:  # noqa: BLE001  whatever it is made of, a policy that cannot be made is none
        return False
    return True


is_options: Final = f.Fields(
    {
        "tl": f.limit,
        "sl": f.limit,
        "rp": _is_policy,
        "mc": f.integer(1, f.MAX_COUNT),
        "ref": f.reference,
        "k": f.word,
        "tp": f.ascii_text(256),
        "sg": f.ascii_text(16),
        "un": f.count,
    }
)
"""A run's options, as far as they are known (`aiki.messages.OPT_*`)."""


def _is_own(value: Any) -> bool:
    """Options that are recorded with a run."""
    if type(value) is not dict:
        return False
    return not value or (is_options(value) and f.shallow(value) and len(json.dumps(value)) <= f.MAX_OPTIONS)


def is_new_run(value: Any) -> bool:
    """A run that a workflow starts (`aiki.model.NewRun.to_wire`)."""
    if not isinstance(value, list | tuple) or len(value) != 12:
        return False
    run_id, name, version, kind, queue, encoding, text, options, due_at, expires_at, reference_id, on_conflict = value
    return (
        type(run_id) is str
        and parse_id(run_id) is not None
        and f.name(name)
        and f.version(version)
        and kind in ("task", "workflow")
        and f.place(queue)
        and f.word(encoding)
        and f.data(text)
        and _is_own(options)
        and _a_moment(due_at)
        and _a_moment(expires_at)
        and (reference_id is None or f.reference(reference_id))
        and on_conflict in ("error", "return_existing", "retry_failed")
    )


_a_moment = f.optional(f.moment)
_a_word = f.optional(f.word)
_a_text = f.optional(f.prose)
_step_name = f.words(1000)
_MORE: Final = f.Fields(
    {
        "e": f.word,
        "r": f.data,
        "t": _a_text,
        "m": _a_text,
        "tb": _a_text,
        "a": f.words(2**26),
        "i": f.words(16_000),
        "c": f.hex_id,
        "at": f.moment,
        "due": _a_moment,
        "s": f.seconds,
        "b": f.hex_id,
        "ms": f.millis,
        "run": is_new_run,
        "ab": f.flag,
        "w": f.hex_id,
    }
)
"""`Step.more`."""


def is_step(value: Any) -> bool:
    """A `Step` as it travels."""
    if not isinstance(value, list | tuple) or len(value) != 7:
        return False
    ordinal, kind, name, digest, state, attempt, more = value
    return (  # written out where it can be: it runs for every step
        type(ordinal) is type(attempt) is int
        and 0 <= ordinal <= f.MAX_COUNT
        and 0 <= attempt <= f.MAX_COUNT
        and type(kind) is type(state) is type(digest) is type(name) is str
        and len(kind) <= 16
        and len(state) <= 16
        and len(digest) <= 32
        and (kind + state + digest).isascii()
        and ((name.isascii() and len(name) <= 1000) or _step_name(name))
        and _MORE(more)
        and ("e" in more) == ("r" in more)
    )


def is_arrival(value: Any) -> bool:
    """An `Arrival` as it travels."""
    if not isinstance(value, list | tuple) or len(value) != 9:
        return False
    arrival, kind, name, ordinal, outcome, encoding, text, error_type, message = value
    return (
        f.hex_id(arrival)
        and f.word(kind)
        and _step_name(name)
        and (ordinal is None or f.count(ordinal))
        and f.word(outcome)
        and _a_word(encoding)
        and (text is None or f.data(text))
        and _a_text(error_type)
        and _a_text(message)
    )


def is_wait(value: Any) -> bool:
    """A `Wait` as it travels."""
    if not isinstance(value, list | tuple) or len(value) != 6:
        return False
    kind, first, last, name, due, seconds = value
    return (
        f.word(kind)
        and f.count(first)
        and f.count(last)
        and first <= last
        and _step_name(name)
        and _a_moment(due)
        and (seconds is None or f.seconds(seconds))
    )


is_waits: Final = f.Fields({"all": f.flag, "w": f.list_of(is_wait, MAX_STEPS)}, ("all", "w"))
"""`Waits` as they travel."""


def is_value_key(value: Any) -> bool:
    """A `ValueKey` as it travels."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        return False
    of, key, what = value
    return what in ("r", "tb") and ((of == "s" and f.count(key)) or (of == "a" and f.hex_id(key)))


def _is_outside(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and is_value_key(value[:3]) and f.count(value[3])


is_history: Final = f.Fields(
    {
        "now": f.moment,
        "first": f.count,
        "next": f.count,
        "steps": f.list_of(is_step, MAX_STEPS),
        "in": f.list_of(is_arrival, MAX_STEPS),
        "out": f.list_of(_is_outside, MAX_STEPS),
    },
    ("now", "first", "next", "steps", "in"),
)
"""A `History` as it travels."""
