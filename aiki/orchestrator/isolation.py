"""Where the orchestrator tries a unit of work: a message, a batch of reports, a run, a duty.

Whatever a unit raises is caught here, and nowhere else. What is wrong with one message or one run must not stop the others: a
batch that fails is halved until the culprit stands alone; it is tried once more, and then refused. How, is for the caller to
say: a run fails readably, a message is kept as a dead letter. Each refusal is one log line and is counted.

Two things are not the unit's fault. `StorageUnavailable` and `BrokerUnavailable` mean that the session is of no more use, and
are raised on. And where the database is broken for everybody (tables that are missing, a server that only reads), every unit
would look like a culprit: so before one is refused, the database is asked whether it works at all (`Store.probe`), and if it
does not, that is `StorageUnavailable` too.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, NamedTuple, ParamSpec, TypeVar

from aiki.errors import BrokerUnavailable, StorageUnavailable
from aiki.storage import Store
from aiki.text import storable

logger = logging.getLogger("aiki.orchestrator")

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

LINES: Final = 20
"""Refusals of a source that have a log line of their own within `LINES_SECONDS`; the others are counted in one."""
LINES_SECONDS: Final = 60.0
MAX_WHY: Final = 500


class Done(NamedTuple, Generic[R]):
    """A unit of work came to its end."""

    value: R


class Failed(NamedTuple):
    """A unit of work raised an error; `why` is the reason."""

    why: str


class Isolation:
    """See the module.

    :param monotonic: seconds.
    """

    def __init__(self, store: Store, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._lines: dict[str, tuple[float, int]] = {}
        self.counted: Counter[str] = Counter()
        """Refusals by source, since they were last taken from here."""
        self.last: dict[str, str] = {}
        """Why the last one of each source was refused."""

    # ------------------------------------------------------------ trying
    def attempt(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Done[R] | Failed:
        """Do a unit of work: call `work` with these arguments.

        :raises StorageUnavailable, BrokerUnavailable: it is not the unit's fault.
        """
        try:
            return Done(work(*args, **kwargs))
        except (StorageUnavailable, BrokerUnavailable):
            raise
        except Exception as error:
            failed = Failed(words(error))
            logger.debug("a unit of work failed", exc_info=True)
        self._store.probe()
        return failed

    def do(self, source: str, what: str, work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Do a unit that has nothing to be kept: what it raises is logged and counted. Whether it was done."""
        found = self.attempt(work, *args, **kwargs)
        if isinstance(found, Failed):
            self.note(source, f"{what}: {found.why}")
            return False
        return True

    def each(self, items: Sequence[T], work: Callable[[Sequence[T]], R], refuse: Callable[[T, str], R | None]) -> Iterator[R]:
        """Do `work` for all items together; what spoils that is found by halving, and given to `refuse` with the reason.

        Order is kept: what `work` returned for a part, or `refuse` for the culprit, is yielded before the next part is begun.
        """
        left = [items] if items else []
        while left:
            part = left.pop()
            found = self.attempt(work, part)
            if isinstance(found, Failed) and len(part) == 1:
                # Once more: what failed it may have been another's doing, and gone by now.
                found = self.attempt(work, part)
            if isinstance(found, Done):
                yield found.value
            elif len(part) > 1:
                middle = len(part) // 2
                left += [part[middle:], part[:middle]]
            else:
                refused = refuse(part[0], found.why)
                if refused is not None:
                    yield refused

    # ------------------------------------------------------------ telling
    def note(self, source: str, why: str) -> None:
        """Count a refusal and log it: one line each, or one line for all where there are very many."""
        self.counted[source] += 1
        self.last[source] = why[:MAX_WHY]
        now = self._monotonic()
        since, said = self._lines.get(source, (now, 0))
        if now - since > LINES_SECONDS:
            if said > LINES:
                logger.error("%s: %d more were refused like these", source, said - LINES)
            since, said = now, 0
        self._lines[source] = (since, said + 1)
        if said < LINES:
            logger.error("%s: %s", source, why[:MAX_WHY])


def words(error: BaseException) -> str:
    """An error in one line of bounded length, whatever its text is."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  the boundary: an error that cannot even be written
        text = "(its text cannot be read)"
    text = " ".join(f"{type(error).__name__}: {text}".split())
    return storable(text, MAX_WHY)
