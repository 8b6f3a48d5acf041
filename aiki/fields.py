"""Checks of single values that come out of messages, and the ceilings that they hold.

A check is a function that says whether a value may be taken. A table of checks (`Fields`) says which fields a kind of message
has: those that are missing although needed, or present and refused, make the message refused; fields that no table names are
passed over, for they are another release's. (JSON's reader lets `Infinity`, `NaN` and 1e999 pass: a check of a number does
not, so that one of them spoils its own part of a message and not the whole.)

Whoever sends is held to the same ceilings where users give the values (`aiki.options`, `aiki.retry`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

Check = Callable[[Any], bool]

MAX_EPOCH: Final = 2**31 - 1
MAX_SECONDS: Final = 100 * 366 * 86400
"""The longest span of time that anybody can ask for: 100 years."""
MAX_MS: Final = MAX_SECONDS * 1000
MAX_TIME: Final = 253_402_300_799_999_999
"""Microseconds since the Unix epoch at the end of the year 9999."""
MAX_COUNT: Final = 2**31 - 1
MAX_NAME: Final = 200
MAX_VERSION: Final = 64
MAX_REFERENCE: Final = 255
MAX_OPTIONS: Final = 60_000
"""Characters of a run's options as JSON."""
MAX_DEPTH: Final = 20
"""How deep data that is passed on unread may be nested."""
MAX_PARTITION: Final = 0xFFFF
_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


# ---------------------------------------------------------------- numbers
def integer(least: int, most: int) -> Check:
    """A whole number in a range; not a truth value."""

    def check(value: Any) -> bool:
        return type(value) is int and least <= value <= most

    return check


def number(least: float, most: float) -> Check:
    """A finite number in a range."""

    def check(value: Any) -> bool:
        return (type(value) is int or type(value) is float) and least <= value <= most  # no comparison holds for nan

    return check


def epoch(value: Any) -> bool:
    """A run's epoch."""
    return type(value) is int and 0 <= value <= MAX_EPOCH


def millis(value: Any) -> bool:
    """A span in milliseconds."""
    return (type(value) is int or type(value) is float) and 0 <= value <= MAX_MS


def word(value: Any) -> bool:
    """A kind, a state, an encoding."""
    return type(value) is str and len(value) <= 16 and value.isascii()


count = integer(0, MAX_COUNT)
partition = integer(0, MAX_PARTITION)
seconds = number(0, MAX_SECONDS)
limit = number(0.0005, MAX_SECONDS)
moment = integer(0, MAX_TIME)
large = integer(0, 2**63 - 1)


def finite(value: Any) -> bool:
    """Any number but infinity and nan."""
    return (type(value) is int and -(2**63) <= value < 2**63) or (type(value) is float and math.isfinite(value))


def flag(value: Any) -> bool:
    """0, 1 or a truth value."""
    return value in (0, 1) and (type(value) is int or type(value) is bool)


# ---------------------------------------------------------------- texts
def text(most: int) -> Check:
    """A text of bounded length."""

    def check(value: Any) -> bool:
        return type(value) is str and len(value) <= most

    return check


def ascii_text(most: int) -> Check:
    """A text of bounded length in ASCII."""

    def check(value: Any) -> bool:
        return type(value) is str and len(value) <= most and value.isascii()

    return check


def printable(most: int, least: int = 0) -> Check:
    """A text of bounded length without control characters and lone surrogates: such as names are."""

    def check(value: Any) -> bool:
        return type(value) is str and least <= len(value) <= most and value.isprintable()

    return check


def words(most: int) -> Check:
    """A text of bounded length that can be stored: without lone surrogates."""

    def check(value: Any) -> bool:
        if type(value) is not str or len(value) > most:
            return False
        if value.isascii():
            return True
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True

    return check


name = printable(MAX_NAME, 1)
version = printable(MAX_VERSION)
executor = ascii_text(80)
reference = printable(MAX_REFERENCE, 1)


def anything(value: Any) -> bool:  # noqa: ARG001
    """Whoever reads it copes with whatever it is."""
    return True


def data(value: Any) -> bool:
    """A payload's text: ASCII, as the codec writes it. Whoever sends bounds its length."""
    return type(value) is str and value.isascii()


def prose(value: Any) -> bool:
    """Text for people; it is cut where it is recorded."""
    return type(value) is str


def place(value: Any) -> bool:
    """What may name a namespace, a queue or a worker (`aiki.settings.check_name`)."""
    return type(value) is str and 0 < len(value) <= 64 and _NAME_CHARACTERS.issuperset(value)


def hex_id(value: Any) -> bool:
    """An id of 16 bytes as 32 hex digits."""
    if type(value) is not str or len(value) != 32:
        return False
    try:
        return bytes.fromhex(value).hex() == value
    except ValueError:
        return False


# ---------------------------------------------------------------- what holds other values
def optional(check: Check) -> Check:
    """None, or what `check` takes."""

    def either(value: Any) -> bool:
        return value is None or check(value)

    return either


def list_of(check: Check, most: int) -> Check:
    """A list of bounded length."""

    def check_all(value: Any) -> bool:
        return type(value) is list and len(value) <= most and all(map(check, value))

    return check_all


def shallow(value: Any, depth: int = MAX_DEPTH) -> bool:
    """JSON data that can be written again: its numbers are finite, and it is not nested too deep."""
    if type(value) is dict:
        return depth > 0 and all(shallow(item, depth - 1) for item in value.values())
    if type(value) is list:
        return depth > 0 and all(shallow(item, depth - 1) for item in value)
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is not int or -(2**63) <= value < 2**63


class Fields:
    """Which fields a JSON object has.

    :param checks: what each field that is known must hold, by its name.
    :param needed: names of fields that must be there.
    """

    __slots__ = ("_needed", "checks")

    def __init__(self, checks: Mapping[str, Check], needed: tuple[str, ...] = ()) -> None:
        self._needed = needed
        self.checks = checks

    def __call__(self, value: Any) -> bool:
        """Whether it is an object with such fields."""
        if type(value) is not dict:
            return False
        checks = self.checks
        for key in value:
            check = checks.get(key)
            if check is not None and not check(value[key]):
                return False
        return all(key in value for key in self._needed) if self._needed else True

    def wrong(self, found: Mapping[str, Any]) -> str | None:
        """What is wrong with an object, in words; None if nothing is."""
        checks = self.checks
        for key, value in found.items():
            check = checks.get(key)
            if check is not None and not check(value):
                return f"its field {key!r} is {shown(value)}"
        for key in self._needed:
            if key not in found:
                return f"its field {key!r} is missing"
        return None


def shown(value: Any, most: int = 80) -> str:
    """A value in an error message."""
    try:
        out = repr(value) if not isinstance(value, list | dict) else json.dumps(value, default=str)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that cannot be written"
    return out if len(out) <= most else f"{out[:most]}…"
