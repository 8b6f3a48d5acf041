"""When a failed attempt is made again."""

from __future__ import annotations

import builtins
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiki.errors import AikiError, ConfigurationError, RetryLater, SoftTimeLimitExceeded

MAX_DELAY = 30 * 86400.0
"""Seconds. The longest pause before another attempt: longer ones are refused in a policy, and cut in `RetryLater`."""


class Tries(NamedTuple):
    """Where an execution stands in its retry policy.

    :ivar counted: 1 for the first that the policy counts.
    :ivar of: how many there are at most.
    """

    counted: int = 1
    of: int = 1

    @property
    def last(self) -> bool:
        """Whether the policy allows none after this one."""
        return self.counted >= self.of


NO_POLICY: Final = Tries()


def asked_delay(error: RetryLater) -> float:
    """The seconds that `error` asks for, from 0 to `MAX_DELAY`. A subclass may not have called its `__init__`."""
    asked = getattr(error, "seconds", 0.0)
    if type(asked) not in (int, float) or not asked > 0:
        return 0.0
    return MAX_DELAY if asked > MAX_DELAY else float(asked)


def _type_names(types: tuple[type[BaseException] | str, ...]) -> tuple[str, ...]:
    names = []
    for item in types:
        if isinstance(item, str):
            names.append(item)
        elif isinstance(item, type) and issubclass(item, BaseException):
            names.append(qualified_name(item))
        else:
            raise ConfigurationError(f"RetryPolicy: {item!r} is not an exception type or the name of one")
    return tuple(names)


def qualified_name(kind: type[BaseException]) -> str:
    """How an exception type is named on the wire and in the database: `ValueError`, `shop.CardDeclined`."""
    if kind.__module__ == builtins.__name__:
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a task that raised is executed again.

    Use the constructors: `RetryPolicy.never()`, `.fixed(...)`, `.exponential(...)`.

    :param max_attempts: executions in all, the first included; 1 means never again. Crashes of the
        process are counted apart (`max_crashes`).
    :param delay: seconds before the second attempt.
    :param factor: what the delay is multiplied by from one attempt to the next.
    :param max_delay: the longest delay, in seconds.
    :param jitter: share of the delay that is random: 0.2 means 80 % to 120 % of it.
    :param retry_on: only these exception types (and their subclasses) are retried; empty means all.
    :param give_up_on: these are never retried; it wins over `retry_on`.
    """

    max_attempts: int = 1
    delay: float = 0.0
    factor: float = 1.0
    max_delay: float = 3600.0
    jitter: float = 0.0
    retry_on: tuple[str, ...] = field(default=())
    give_up_on: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("max_attempts", "delay", "factor", "max_delay", "jitter"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
                raise ConfigurationError(f"RetryPolicy({name}={value!r}): it must be a finite number")
        if self.max_attempts < 1:
            raise ConfigurationError(f"RetryPolicy(max_attempts={self.max_attempts}): it must be 1 or more")
        for name in ("delay", "max_delay"):
            value = getattr(self, name)
            if not 0 <= value <= MAX_DELAY:
                raise ConfigurationError(f"RetryPolicy({name}={value}): it must be from 0 to {MAX_DELAY:.0f} seconds")
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"RetryPolicy(jitter={self.jitter}): it must be from 0 to 1")
        if not self.factor >= 1:
            raise ConfigurationError(f"RetryPolicy(factor={self.factor}): it must be 1 or more")

    @classmethod
    def never(cls) -> RetryPolicy:
        """No second attempt."""
        return cls()

    @classmethod
    def fixed(
        cls,
        max_attempts: int = 3,
        delay: float = 1.0,
        *,
        jitter: float = 0.0,
        retry_on: tuple[type[BaseException] | str, ...] = (),
        give_up_on: tuple[type[BaseException] | str, ...] = (),
    ) -> RetryPolicy:
        """The same delay (seconds) before each further attempt."""
        return cls(
            max_attempts=max_attempts,
            delay=delay,
            max_delay=max(delay, 0.0),
            jitter=jitter,
            retry_on=_type_names(retry_on),
            give_up_on=_type_names(give_up_on),
        )

    @classmethod
    def exponential(
        cls,
        max_attempts: int = 5,
        delay: float = 1.0,
        *,
        factor: float = 2.0,
        max_delay: float = 3600.0,
        jitter: float = 0.2,
        retry_on: tuple[type[BaseException] | str, ...] = (),
        give_up_on: tuple[type[BaseException] | str, ...] = (),
    ) -> RetryPolicy:
        """A delay (seconds) that grows by `factor` from attempt to attempt, up to `max_delay`."""
        return cls(
            max_attempts=max_attempts,
            delay=delay,
            factor=factor,
            max_delay=max_delay,
            jitter=jitter,
            retry_on=_type_names(retry_on),
            give_up_on=_type_names(give_up_on),
        )

    def next_delay(
        self, error: BaseException, attempt: int, uniform: Callable[[float, float], float] = random.uniform
    ) -> float | None:
        """Seconds until the attempt after `attempt` (1 is the first), or None when there is to be none."""
        if attempt >= self.max_attempts:
            return None
        lineage = {qualified_name(kind) for kind in type(error).__mro__ if issubclass(kind, BaseException)}
        if isinstance(error, SoftTimeLimitExceeded):  # an Exception for those who choose what is tried again
            lineage |= {"Exception", qualified_name(AikiError)}
        if lineage.intersection(self.give_up_on):
            return None
        if self.retry_on and not lineage.intersection(self.retry_on):
            return None
        try:
            delay = min(self.delay * self.factor ** (attempt - 1), self.max_delay)
        except OverflowError:
            delay = self.max_delay
        return float(delay * uniform(1 - self.jitter, 1 + self.jitter)) if self.jitter else float(delay)

    def to_wire(self) -> dict[str, Any]:
        """The policy as JSON, defaults left out; `from_wire` reads it back."""
        default = RetryPolicy()
        out: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if value != getattr(default, name):
                out[name] = list(value) if isinstance(value, tuple) else value
        return out

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> RetryPolicy:
        """Read what `to_wire` wrote; raises `ConfigurationError` for anything else."""
        given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        try:
            return cls(**given)
        except TypeError as error:
            raise ConfigurationError(f"not a retry policy: {dict(data)!r} ({error})") from None
