"""The verbs that look for runs with a filter (`aiki.filters`): pages in both directions, and counts.

Runs are listed by the time they were recorded, newest first; runs recorded at once by their ids. Every query walks an index in
that order:

* The **way** is the index that the filter narrows most: a handful of ids, a parent's children, states, names, queues, or all by
  time. A way may have several **lanes** (three states are three lanes, merged). Times of recording bound each lane.
* What the way does not decide is the **rest**. Without one, a page is read and that is all. With one the lanes are walked in
  chunks of bounded length, until the page is full or the budget is used up; then the page says so, and where to go on. A rest
  that the index itself holds (a name in the index of states) costs far less than one in the rows or inputs.

No query sorts more than its lanes' pages, and none is longer than a chunk. The server ends each after a second regardless.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa

from aiki import ids
from aiki.errors import ConfigurationError, FilterError
from aiki.filters import TEXT, Filter, Pattern, Range, Term, states_of
from aiki.model import Count, Found, Page, RunFilter
from aiki.states import State
from aiki.storage.conditions import ALWAYS, ArgumentTest, Condition, Conditions, Window, id_bounds, window_of
from aiki.storage.reading import Reading
from aiki.storage.rows import VIEW_COLUMNS, run_view
from aiki.storage.ways import ALL_COVERED, Place, Plan, Walk, Way

FEW_IDS: Final = 1000
FEW_NAMES: Final = 30
PROBE: Final = 2000
"""Entries of an index up to which ways are compared by their length."""
CHUNK_IN_INDEX: Final = 5000
CHUNK_IN_ROWS: Final = 500
LONGEST_CHUNK_IN_INDEX: Final = 40_000
LONGEST_CHUNK_IN_ROWS: Final = 1000
"""Longer ones would overrun the time."""
BUDGET_IN_INDEX: Final = 100_000
BUDGET_IN_ROWS: Final = 20_000
BUDGET_SECONDS: Final = 0.08
CAP: Final = 10_000

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_WORKER_AT: Final = VIEW_COLUMNS.split(", ").index("worker")


class Searching(Reading):
    """Looking for runs.

    :ivar hides: the names of arguments that whoever asks does not see, and so may not look for; None: it sees all.
    """

    hides: Callable[[str], bool] | None

    def search(self, where: Filter, *, limit: int = 50, after: str | None = None, before: str | None = None) -> Found:
        """A page of the runs that match, newest first.

        :param after: the `next` of another page: older runs than that page's.
        :param before: the `previous` of another page: newer runs, those nearest to it.
        :raises ConfigurationError: `after` or `before` is none of these.
        """
        start = Place.of(after or before or "") if after or before else None
        return self.db.read(lambda connection: self._search(connection, where, limit, start, down=before is None))

    def _search(self, connection: sa.Connection, where: Filter, limit: int, start: Place | None, *, down: bool) -> Found:
        plan = self._plan(connection, where)
        walk = Walk(down, start)
        places: list[Place] = []
        for found in self._chunks(connection, plan, walk, limit + 1):
            places += found
            if len(places) > limit:
                break
        more = len(places) > limit
        stopped = not more and not walk.done
        places = places[:limit]
        beyond = places[-1] if more else walk.start if stopped else None
        if not down:
            places.reverse()
        runs = self._rows_at(connection, places)
        ahead = beyond.text if beyond else None
        back = places[0 if down else -1].text if places and start is not None else None
        if not places and start is not None and not down:
            back = start.text
        older, newer = (ahead, back) if down else (back, ahead)
        return Found(runs, older, newer, walk.looked, not stopped)

    def count(self, where: Filter, cap: int = CAP) -> Count:
        """How many runs match: exact up to `cap`, beyond it at least that many; as far as can be seen in a moment."""

        def work(connection: sa.Connection) -> Count:
            plan = self._plan(connection, where)
            if plan.few is None and not plan.rest and plan.arguments is None:
                number = self._length(connection, plan.way, plan.window, cap + 1)
                return Count(min(number, cap), number <= cap)
            walk, number = Walk(True, None), 0
            for found in self._chunks(connection, plan, walk, None):
                number += len(found)
                if number > cap:
                    break
            return Count(min(number, cap), number <= cap and walk.done)

        return self.db.read(work)

    def list_runs(self, where: RunFilter, *, limit: int = 50, after: str | None = None) -> Page:
        """Runs, newest first; `after` is the `next` of the page before."""
        found = self.search(filter_of(where), limit=limit, after=after)
        return Page(found.runs, found.next)

    def _rows_at(self, connection: sa.Connection, places: Sequence[Place]) -> list[Any]:
        sql = f"SELECT {VIEW_COLUMNS} FROM aiki_runs WHERE namespace = ? AND id"
        rows = self.db.where_in(connection, sql, (self.namespace,), [place.id for place in places])
        by_id = {bytes(row[0]): row for row in rows}
        names = self._worker_names(connection, [row[_WORKER_AT] for row in rows])
        views = [run_view(by_id[place.id], names) for place in places if place.id in by_id]
        if any(view.state is State.QUEUED for view in views):
            paused = self.pauses(connection).queues
            views = [self._held_up(view, paused) for view in views]
        return views

    # ------------------------------------------------------------ walking
    def _chunks(self, connection: sa.Connection, plan: Plan, walk: Walk, wanted: int | None) -> Iterator[list[Place]]:
        """What matches, chunk by chunk, in the order of the walk; `wanted`: no more than so many a chunk are needed."""
        if plan.few is not None:
            yield self._few(connection, plan, walk)
            return
        if not plan.rest and plan.arguments is None:
            yield self._lanes(connection, plan, walk.start, None, walk.down, wanted or CAP)
            walk.done = True
            return
        quick = plan.in_index
        size, budget = (CHUNK_IN_INDEX, BUDGET_IN_INDEX) if quick else (CHUNK_IN_ROWS, BUDGET_IN_ROWS)
        until = time.monotonic() + BUDGET_SECONDS
        while not walk.done and walk.looked < budget and (walk.looked == 0 or time.monotonic() < until):
            size = min(size, budget - walk.looked)
            stop, looked = self._end_of_chunk(connection, plan, walk, size)
            everything = looked if plan.arguments is not None or wanted is None else wanted
            found = self._lanes(connection, plan, walk.start, stop, walk.down, everything)
            if plan.arguments is not None:
                found = self._with_arguments(connection, plan.arguments, found)
            walk.looked += looked
            walk.start, walk.done = stop or walk.start, stop is None
            size = min(2 * size, LONGEST_CHUNK_IN_INDEX if quick else LONGEST_CHUNK_IN_ROWS)
            yield found

    def _few(self, connection: sa.Connection, plan: Plan, walk: Walk) -> list[Place]:
        assert plan.few is not None
        conditions, parameters = _all(plan.rest)
        sql = (
            "SELECT created_at, id FROM aiki_runs WHERE namespace = ? AND created_at >= ? AND created_at < "
            f"?{conditions} AND id"
        )
        rows = self.db.where_in(connection, sql, (self.namespace, *plan.window, *parameters), plan.few)
        found = sorted((Place(row[0], bytes(row[1])) for row in rows), reverse=walk.down)
        if walk.start is not None:
            found = [place for place in found if (place < walk.start if walk.down else place > walk.start)]
        if plan.arguments is not None:
            found = self._with_arguments(connection, plan.arguments, found)
        walk.looked, walk.done = len(plan.few), True
        return found

    def _end_of_chunk(self, connection: sa.Connection, plan: Plan, walk: Walk, size: int) -> tuple[Place | None, int]:
        """The last place of the next chunk (None: it is the rest of the lanes), and about how many runs it has."""
        share = max(100, size // len(plan.way.lanes))
        ends: list[Place] = []
        for lane in plan.way.lanes:
            place = self._nth(connection, plan, lane, walk, share)
            if place is not None:
                ends.append(place)
        stop = None if not ends else max(ends) if walk.down else min(ends)
        return stop, self._between(connection, plan, walk, stop, share * len(plan.way.lanes))

    def _between(self, connection: sa.Connection, plan: Plan, walk: Walk, stop: Place | None, cap: int) -> int:
        """How many runs a chunk has; it has no more than `cap`."""
        if len(plan.way.lanes) == 1 and stop is not None:
            return cap
        total = 0
        for lane in plan.way.lanes:
            for sql, parameters in self._segments(plan.way, lane, plan.window, walk.start, stop, walk.down):
                counted = f"SELECT COUNT(*) FROM ({sql} LIMIT {cap}) t"
                total += int(self.db.look(connection, counted, parameters)[0][0])
        return total

    def _nth(self, connection: sa.Connection, plan: Plan, lane: Any, walk: Walk, count: int) -> Place | None:
        skip = count - 1
        for sql, parameters in self._segments(plan.way, lane, plan.window, walk.start, None, walk.down):
            # An OFFSET over so many entries of an index and no more: it bounds the chunk.
            rows = self.db.look(connection, f"{sql} LIMIT 1 OFFSET {skip}", parameters)
            if rows:
                return Place(rows[0][0], bytes(rows[0][1]))
            if walk.start is not None:
                inner = f"SELECT COUNT(*) FROM ({sql} LIMIT {skip + 1}) t"
                skip -= int(self.db.look(connection, inner, parameters)[0][0])
        return None

    def _lanes(
        self, connection: sa.Connection, plan: Plan, start: Place | None, stop: Place | None, down: bool, wanted: int
    ) -> list[Place]:
        """What matches between two places, from all lanes, merged; at most `wanted`."""
        conditions, more = _all(plan.rest)
        pieces: list[str] = []
        parameters: list[Any] = []
        for lane in plan.way.lanes:
            for sql, values in self._segments(plan.way, lane, plan.window, start, stop, down, conditions, more):
                pieces.append(f"{sql} LIMIT {int(wanted)}")
                parameters += values
        if not pieces:  # a window that ends before it begins
            return []
        if len(pieces) == 1:
            rows = self.db.look(connection, pieces[0], parameters)
        else:
            union = " UNION ALL ".join(f"SELECT created_at, id FROM ({piece}) s{n}" for n, piece in enumerate(pieces))
            rows = self.db.look(connection, union, parameters)
        found = sorted((Place(row[0], bytes(row[1])) for row in rows), reverse=down)
        return found[:wanted]

    def _segments(
        self,
        way: Way,
        lane: Any,
        window: Window,
        start: Place | None,
        stop: Place | None,
        down: bool,
        conditions: str = "",
        more: Sequence[Any] = (),
    ) -> Iterator[tuple[str, list[Any]]]:
        """SELECTs of one lane from `start` (not included) to `stop` (included), without their LIMIT.

        Two where there is a start: the rest of the runs that were recorded in the same microsecond, and those beyond. Each is
        one range of the index.
        """
        head = f"SELECT created_at, id FROM aiki_runs {self._hint(way.index)} WHERE namespace = ?"
        base: list[Any] = [self.namespace]
        if way.column is not None:
            head, base = f"{head} AND {way.column} = ?", [*base, lane]
        order = " ORDER BY created_at DESC, id DESC" if down else " ORDER BY created_at, id"
        low, high = window
        end, last = "", []
        if stop is not None:
            far, than = ("low", "<") if down else ("high", ">")
            end = f" AND (created_at <> ? OR NOT id {than} ?)"
            last = [stop.created_at, stop.id]
            low, high = (max(low, stop.created_at), high) if far == "low" else (low, min(high, stop.created_at + 1))
        if start is not None:
            if low <= start.created_at < high:
                sql = f"{head} AND created_at = ? AND id {'<' if down else '>'} ?{end}{conditions}{order}"
                yield sql, [*base, start.created_at, start.id, *last, *more]
            low, high = (low, min(high, start.created_at)) if down else (max(low, start.created_at + 1), high)
        if low < high:
            sql = f"{head} AND created_at >= ? AND created_at < ?{end}{conditions}{order}"
            yield sql, [*base, low, high, *last, *more]

    def _hint(self, index: str) -> str:
        # Neither database knows that a walk in order, stopped early, is best; SQLite has no statistics at all.
        return self.db.dialect.use_index(index)

    def _length(self, connection: sa.Connection, way: Way, window: Window, cap: int) -> int:
        """How many entries a way has, counted up to `cap`."""
        total = 0
        for lane in way.lanes:
            for sql, parameters in self._segments(way, lane, window, None, None, True):
                counted = f"SELECT COUNT(*) FROM ({sql} LIMIT {cap - total}) t"
                total += int(self.db.look(connection, counted, parameters)[0][0])
            if total >= cap:
                break
        return total

    def _with_arguments(self, connection: sa.Connection, test: ArgumentTest, places: Sequence[Place]) -> list[Place]:
        """Those of the runs whose input passes the test."""
        needles = test.needles()
        # Inputs that are compressed show nothing to a comparison.
        must = f" AND (encoding <> 'json' OR {self.db.dialect.holds('data')})" * len(needles)
        sql = f"SELECT run_id, encoding, data FROM aiki_payloads WHERE role = 'input' AND namespace = ?{must} AND run_id"
        values = [self.db.dialect.blob(needle) for needle in needles]
        rows = self.db.where_in(connection, sql, (self.namespace, *values), [place.id for place in places])
        fitting = {bytes(run_id) for run_id, encoding, data in rows if test(encoding, data)}
        return [place for place in places if place.id in fitting]

    # ------------------------------------------------------------ planning
    def _plan(self, connection: sa.Connection, where: Filter) -> Plan:
        now = self.clock()
        self._check_hidden(where)
        window, terms = ALWAYS, []
        for term in where.terms:
            found = window_of(term, now)
            if found is None:
                terms.append(term)
            else:
                window &= found
        few, decided = self._few_ids(connection, terms)
        if few is not None:
            way = Way("PRIMARY", decided=decided)
        else:
            ways = list(self._ways(connection, terms))
            way = self._narrowest(connection, ways, window) if len(ways) > 1 else ways[0]
        conditions = Conditions(
            dialect=self.db.dialect, now=now, workers_like=lambda like: self._workers_like(connection, like)
        )
        left = [term for term in terms if term not in way.decided]
        arguments = [term for term in left if term.field == "args"]
        rest = [conditions.of(term) for term in left if term.field != "args"]
        return Plan(way, window, rest, ArgumentTest(arguments) if arguments else None, few)

    def _check_hidden(self, where: Filter) -> None:
        """Who may not see a value must not find it by asking for it either."""
        hides = self.hides
        for term in where.terms if hides is not None else ():
            secret = next((key for key in term.path if hides is not None and hides(key)), None)
            if secret is not None:
                why = f"{secret[:40]} is a secret that your role does not see, so it cannot be looked for"
                raise FilterError(why, term.position, max(1, term.length))

    def _few_ids(self, connection: sa.Connection, terms: Sequence[Term]) -> tuple[list[bytes] | None, frozenset[Term]]:
        """The ids of the runs that a term names, if it names few."""
        finders: dict[str, Callable[[sa.Connection, Pattern], list[bytes] | None]] = {
            "id": self._named_by_id,
            "reference": self._named_by_reference,
            TEXT: self._named_by_word,
        }
        for term in terms:
            find = finders.get(term.field)
            if find is None or term.negated:
                continue
            found: dict[bytes, None] = {}
            for value in term.values:
                more = find(connection, value) if isinstance(value, Pattern) else None
                if more is None or len(found) + len(more) > FEW_IDS:
                    break
                found |= dict.fromkeys(more)
            else:
                return list(found), frozenset({term})
        return None, frozenset()

    def _named_by_id(self, connection: sa.Connection, pattern: Pattern) -> list[bytes] | None:
        low, high = id_bounds(pattern)
        if low == high:
            return [low]
        sql = f"SELECT id FROM aiki_runs WHERE namespace = ? AND id >= ? AND id <= ? ORDER BY id DESC LIMIT {FEW_IDS + 1}"
        rows = self.db.look(connection, sql, (self.namespace, low, high))
        return [bytes(row[0]) for row in rows] if len(rows) <= FEW_IDS else None

    def _named_by_reference(self, connection: sa.Connection, pattern: Pattern) -> list[bytes] | None:
        exact, prefix = pattern.exact, pattern.prefix
        if not exact and not prefix:
            return [] if exact == "" else None
        head = f"SELECT run_id FROM aiki_reference_ids {self._hint('ix_aiki_reference_ids_reference_id')} WHERE namespace = ?"
        tail = f"ORDER BY reference_id LIMIT {FEW_IDS + 1}"
        if exact is not None:
            rows = self.db.look(connection, f"{head} AND reference_id = ? {tail}", (self.namespace, exact))
        else:
            key = (self.namespace, prefix, f"{prefix}\U0010ffff")
            rows = self.db.look(connection, f"{head} AND reference_id >= ? AND reference_id < ? {tail}", key)
        return [bytes(row[0]) for row in rows] if len(rows) <= FEW_IDS else None

    def _named_by_word(self, connection: sa.Connection, pattern: Pattern) -> list[bytes] | None:
        """A word that is a run's id or a recorded reference id means just that."""
        if pattern.exact is None:
            return None
        parsed = ids.parse_id(pattern.exact) if len(pattern.exact) in (32, 36) else None
        if parsed is not None:
            return [parsed.bytes]
        return self._named_by_reference(connection, pattern) or None

    def _ways(self, connection: sa.Connection, terms: Sequence[Term]) -> Iterator[Way]:
        """The indexes that could be walked; the one over everything only if there is no other."""
        any_way = False
        for term in terms:
            way = self._way_of(connection, term)
            if way is not None:
                any_way = True
                yield way
        if not any_way:
            yield Way("ix_aiki_runs_created_at")

    def _way_of(self, connection: sa.Connection, term: Term) -> Way | None:
        decided = frozenset({term})
        if term.field == "status":
            states = set(State) - states_of(term) if term.negated else states_of(term)
            covered = ALL_COVERED | {"state", "name", "queue"}
            return Way("ix_aiki_runs_state", "state", tuple(sorted(state.value for state in states)), covered, decided)
        if term.negated:
            return None
        patterns = [value for value in term.values if isinstance(value, Pattern)]
        exact = [pattern.exact for pattern in patterns]
        if term.field == "parent" and None not in exact:
            return Way(
                "ix_aiki_runs_parent_id", "parent_id", tuple(ids.to_bytes(text or "") for text in exact), decided=decided
            )
        if term.field == "queue" and None not in exact and len(exact) <= FEW_NAMES:
            lanes = tuple(text for text in exact if text is not None and text.isascii())
            return Way("ix_aiki_runs_queue", "queue", lanes, ALL_COVERED | {"queue"}, decided) if lanes else None
        if term.field == "name":
            names = self._names(connection, patterns)
            if names is not None:
                return Way("ix_aiki_runs_name", "name", tuple(names), ALL_COVERED | {"name"}, decided)
        return None

    def _names(self, connection: sa.Connection, patterns: Sequence[Pattern]) -> list[str] | None:
        """The names that runs have and that fit, if they are few."""
        found: dict[str, None] = {}
        for pattern in patterns:
            if pattern.exact is not None:
                found[pattern.exact] = None
                continue
            seen, start = 0, pattern.parts[0]
            sql = (
                f"SELECT name FROM aiki_runs {self._hint('ix_aiki_runs_name')} WHERE namespace = ? AND name {{}} "
                "? ORDER BY name LIMIT 1"
            )
            compare, last = ">=", start
            while seen <= FEW_NAMES:  # from name to name, each by a look at the index
                rows = self.db.look(connection, sql.format(compare), (self.namespace, last))
                if not rows or not rows[0][0].startswith(start):
                    break
                compare, last, seen = ">", rows[0][0], seen + 1
                if pattern.matches(last):
                    found[last] = None
            else:
                return None
        return list(found) if 0 < len(found) <= FEW_NAMES else None if found else [""]

    def _narrowest(self, connection: sa.Connection, ways: Sequence[Way], window: Window) -> Way:
        """The shortest of these ways; if all are long, one whose index holds the most."""
        lengths = [(self._length(connection, way, window, PROBE), -len(way.covered), at) for at, way in enumerate(ways)]
        return ways[min(lengths)[2]]

    def _workers_like(self, connection: sa.Connection, pattern: Pattern) -> list[bytes]:
        conditions = Conditions(dialect=self.db.dialect, now=0, workers_like=lambda _: [])
        like, parameters = conditions.matches("name", pattern)
        sql = f"SELECT id FROM aiki_workers WHERE namespace = ? AND {like} ORDER BY id DESC LIMIT {FEW_IDS}"
        rows = self.db.look(connection, sql, (self.namespace, *parameters))
        found = [bytes(row[0]) for row in rows]
        exact = pattern.exact
        if exact is not None and ids.parse_id(exact) is not None:
            found.append(ids.to_bytes(exact))
        return found


def _all(conditions: Sequence[Condition]) -> tuple[str, list[Any]]:
    sql = "".join(f" AND {condition.sql}" for condition in conditions)
    return sql, [parameter for condition in conditions for parameter in condition.parameters]


def filter_of(where: RunFilter) -> Filter:
    """The same conditions as a filter. Raises `ConfigurationError` for a parent that is no run id."""
    terms = []
    if where.states:
        terms.append(Term("status", tuple(Pattern((state,)) for state in sorted({s.value for s in where.states}))))
    pairs = (("name", where.name), ("queue", where.queue), ("reference", where.reference_id), ("kind", where.kind))
    terms += [Term(name, (Pattern((value,)),)) for name, value in pairs if value is not None]
    if where.parent_id is not None:
        if ids.parse_id(where.parent_id) is None:
            raise ConfigurationError(f"parent_id={where.parent_id!r} is not a run id; run ids are UUIDs")
        terms.append(Term("parent", (Pattern((where.parent_id,)),)))
    times = ((">=", where.created_after), ("<", where.created_before))
    terms += [Term("created", (Range(op, _iso(moment)),)) for op, moment in times if moment is not None]
    return Filter(tuple(terms))


def _iso(moment: int) -> str:
    return (_EPOCH + dt.timedelta(microseconds=moment)).isoformat()
