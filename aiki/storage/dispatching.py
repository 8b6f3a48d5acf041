"""What dispatches carry: inputs and histories, loaded within a budget of bytes.

Sizes are looked at first, with the small values; the large ones are loaded once it is known that there is room for them. What
does not fit into the transaction's budget is left to the next one. Of a history that is longer than a dispatch carries
(`HISTORY_INLINE`), the largest values stay outside: the child that looks at one fetches it (`values`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from aiki.ceilings import CLAIM_BYTES, FETCH_BYTES, HISTORY_FULL, HISTORY_INLINE, SMALL_VALUE, STEPS_AT_ONCE
from aiki.clock import Clock
from aiki.codec import Payload
from aiki.history import WOKEN, History, ValueKey
from aiki.lifecycle.record import RunRow, delivery_id, is_suspect
from aiki.messages import KIND_OUTSIDE, OPT_KIND
from aiki.model import Outgoing
from aiki.storage.creating import next_group
from aiki.storage.engine import Database
from aiki.storage.history import SELECT_ARRIVAL_OUTLINE, SELECT_STEP_OUTLINE, arrival_of, step_of
from aiki.storage.rows import dispatch_of, payload_of

LOOKED_AT = 4096
"""Bytes of a value that is loaded with its size, in one statement."""
Due = tuple[RunRow, bool]


@dataclass(slots=True)
class Loaded:
    """What there is to publish, and the runs for which there was no room: their deliveries are due at once."""

    outgoing: list[Outgoing] = field(default_factory=list)
    left: list[Due] = field(default_factory=list)


@dataclass(slots=True)
class _Story:
    """A history in the making: `large` holds the texts that were not loaded with the outline, with their lengths."""

    history: History
    large: dict[ValueKey, int] = field(default_factory=dict)
    size: int = 0


class Dispatching:
    """Loading what dispatches carry.

    :ivar can_fetch: whether all workers of a namespace can fetch values that are outside of a history. A process that does not
        know it, for it hears no heartbeats, leaves long histories to an orchestrator.
    """

    db: Database
    clock: Clock
    can_fetch: Callable[[str], bool] | None = None

    def outgoing(self, connection: sa.Connection, namespace: str, due: Sequence[Due]) -> Loaded:
        """What is to be published of these runs now, with their input; runs that travel together share a group."""
        out = Loaded()
        if not due:
            return out
        inputs = self._inputs(connection, namespace, [row for row, _ in due])
        groups: dict[tuple[Any, ...], int] = {}
        total = 0
        for part in _slices(due):
            if total >= CLAIM_BYTES:
                out.left += part
                continue
            stories = self._outlines(connection, namespace, [row for row, _ in part if row.is_workflow])
            for row, again in part:
                story = stories.get(row.id)
                payload, size = inputs[row.id]
                if story is not None:
                    if not self._choose(namespace, story):
                        out.left.append((row, again))
                        continue
                    size += story.size
                if total and total + size > CLAIM_BYTES:
                    out.left.append((row, again))
                    continue
                total += size
                if payload is None:
                    payload = self._load_input(connection, namespace, row)
                if story is not None:
                    self._load_large(connection, namespace, row, story)
                # Runs of one name and partition may share a message; suspects travel alone, so that they harm nobody; so do
                # histories, which may be long.
                alone = is_suspect(row) or row.history
                key = (row.name, row.queue, row.partition_no, again, row.id if alone else b"")
                group = groups.get(key) or groups.setdefault(key, next_group())
                dispatch = dispatch_of(row, payload, None if story is None else story.history)
                if story is not None and story.history.outside:
                    dispatch.options[OPT_KIND] = KIND_OUTSIDE
                out.outgoing.append(Outgoing(delivery_id(row.id, row.epoch), namespace, row.queue, group, dispatch, again))
        return out

    def leave(self, connection: sa.Connection, namespace: str, left: Sequence[Due], now: int) -> None:
        """Have the deliveries of runs for which there was no room taken by whoever sweeps next."""
        for again in (False, True):
            marked = [delivery_id(row.id, row.epoch) for row, is_again in left if is_again is again]
            sql = "UPDATE aiki_deliveries SET due_at = ?, again = ? WHERE namespace = ? AND id"
            self.db.where_in(connection, sql, (now, int(again), namespace), sorted(marked))

    # ------------------------------------------------------------ inputs
    def _inputs(
        self, connection: sa.Connection, namespace: str, rows: Sequence[RunRow]
    ) -> dict[bytes, tuple[Payload | None, int]]:
        """The input of each run, if it is small, and its length."""
        sql = (
            f"SELECT run_id, encoding, LENGTH(data), CASE WHEN LENGTH(data) <= {LOOKED_AT} THEN data END FROM aiki_payloads "
            "WHERE role = 'input' AND namespace = ? AND run_id"
        )
        found = self.db.where_in(connection, sql, (namespace,), [row.id for row in rows])
        out = {
            bytes(run_id): (None if data is None else payload_of(encoding, data), int(size))
            for run_id, encoding, size, data in found
        }
        for row in rows:
            if row.history_from:
                sql = (
                    f"SELECT encoding, LENGTH(data), CASE WHEN LENGTH(data) <= {LOOKED_AT} THEN data END FROM aiki_steps "
                    "WHERE namespace = ? AND run_id = ? AND ordinal = ?"
                )
                step = self.db.execute(connection, sql, (namespace, row.id, row.history_from - 1)).fetchone()
                if step is not None:
                    encoding, size, data = step
                    out[row.id] = (None if data is None else payload_of(encoding, data), int(size))
        return out

    def _load_input(self, connection: sa.Connection, namespace: str, row: RunRow) -> Payload:
        if row.history_from:  # it went on as new: its input is the result of the step before
            sql = "SELECT encoding, data FROM aiki_steps WHERE namespace = ? AND run_id = ? AND ordinal = ?"
            found = self.db.execute(connection, sql, (namespace, row.id, row.history_from - 1)).fetchone()
            if found is not None:
                return payload_of(*found)
        sql = "SELECT encoding, data FROM aiki_payloads WHERE role = 'input' AND namespace = ? AND run_id = ?"
        return payload_of(*self.db.execute(connection, sql, (namespace, row.id)).fetchone())

    # ------------------------------------------------------------ histories
    def _outlines(self, connection: sa.Connection, namespace: str, rows: Sequence[RunRow]) -> dict[bytes, _Story]:
        """The histories of these runs: the steps of the present call of the function, and what came from outside; the large
        texts are only known by their lengths."""
        now = self.clock()
        out = {row.id: _Story(History(now, row.history_from, row.history)) for row in rows}
        if not rows:
            return out
        most = LOOKED_AT if sum(row.history - row.history_from for row in rows) <= STEPS_AT_ONCE // 2 else SMALL_VALUE
        # What was before a run went on as new is of no use to it, and may be very long: such runs are asked for one by one.
        whole = [row.id for row in rows if not row.history_from]
        begun = [row.id for row in rows if row.history and not row.history_from]
        steps = f"SELECT {SELECT_STEP_OUTLINE.format(most=most)} FROM aiki_steps WHERE namespace = ? AND run_id"
        # An event that a step has taken, or a waking, is of no more use: the step says so.
        inbox = f"SELECT {SELECT_ARRIVAL_OUTLINE.format(most=most)} FROM aiki_inbox WHERE (ordinal IS NULL OR kind = 'child') "
        found = self.db.where_in(connection, steps, (namespace,), begun, "ORDER BY run_id, ordinal")
        came = self.db.where_in(
            connection, f"{inbox} AND namespace = ? AND run_id", (namespace,), whole, "ORDER BY created_at, id"
        )
        for row in rows:
            if row.history_from:
                key = (namespace, row.id, row.history_from)
                found += self.db.execute(connection, f"{steps} = ? AND ordinal >= ? ORDER BY ordinal", key).fetchall()
                sql = f"{inbox} AND namespace = ? AND run_id = ? AND (ordinal IS NULL OR ordinal >= ?) ORDER BY created_at, id"
                came += self.db.execute(connection, sql, key).fetchall()
        for item in found:
            _add_step(out[bytes(item[0])], item)
        for item in came:
            _add_arrival(out[bytes(item[0])], item)
        return out

    def _choose(self, namespace: str, story: _Story) -> bool:
        """Leave out of a long history what is largest. False: whoever knows what the workers can do is to see to it."""
        if story.size <= HISTORY_INLINE:
            return True
        if self.can_fetch is None:
            return False
        if story.size <= HISTORY_FULL and not self.can_fetch(namespace):
            return True
        texts = _texts(story)
        out: list[ValueKey] = []
        for key, size in sorted(texts.items(), key=lambda item: item[1], reverse=True):
            if story.size <= HISTORY_INLINE or size <= SMALL_VALUE:
                break
            out.append(key)
            story.size -= size
        places = {step.ordinal: step for step in story.history.steps}
        at = {arrival.id: index for index, arrival in enumerate(story.history.arrivals)}
        for key in out:
            story.large.pop(key, None)
            if key.of == "s":
                more = places[int(key.key)].more
                more.pop(key.what, None)
                if key.what == "r":
                    more["r"] = ""  # its place, beside its encoding
            else:
                index = at[str(key.key)]
                story.history.arrivals[index] = story.history.arrivals[index]._replace(text=None)
        order = {arrival.id: arrival.ordinal for arrival in story.history.arrivals}
        last = story.history.next

        def place(key: ValueKey) -> int:
            ordinal = int(key.key) if key.of == "s" else order[str(key.key)]
            return last if ordinal is None else ordinal

        story.history.outside = [(key, texts[key]) for key in sorted(out, key=place)]
        return True

    def _load_large(self, connection: sa.Connection, namespace: str, row: RunRow, story: _Story) -> None:
        """Load the texts that are not outside and not there yet."""
        if not story.large:
            return
        texts = self._texts_of(connection, namespace, row.id, list(story.large))
        places = {step.ordinal: step for step in story.history.steps}
        at = {arrival.id: index for index, arrival in enumerate(story.history.arrivals)}
        for key, text in texts.items():
            if key.of == "s":
                places[int(key.key)].more[key.what] = text
            else:
                index = at[str(key.key)]
                story.history.arrivals[index] = story.history.arrivals[index]._replace(text=text)

    # ------------------------------------------------------------ values that are outside
    def values(self, namespace: str, run_id: str, keys: Sequence[ValueKey]) -> dict[ValueKey, str | None]:
        """The texts of these keys of a run (its id in hex), in their order as far as `FETCH_BYTES` allow, at least the first.

        None stands for what is not there.
        """
        raw = bytes.fromhex(run_id)

        def work(connection: sa.Connection) -> dict[ValueKey, str | None]:
            sizes = self._sizes_of(connection, namespace, raw, keys)
            chosen: list[ValueKey] = []
            total = 0
            for key in keys:
                total += sizes.get(key, 0)
                if chosen and total > FETCH_BYTES:
                    break
                chosen.append(key)
            texts = self._texts_of(connection, namespace, raw, chosen)
            return {key: texts.get(key) for key in chosen}

        return self.db.read(work)

    def _sizes_of(
        self, connection: sa.Connection, namespace: str, run_id: bytes, keys: Sequence[ValueKey]
    ) -> dict[ValueKey, int]:
        found = self._cells_of(connection, namespace, run_id, keys, "LENGTH(data)", "LENGTH(traceback)")
        return {key: int(size) for key, size in found.items() if size is not None}

    def _texts_of(
        self, connection: sa.Connection, namespace: str, run_id: bytes, keys: Sequence[ValueKey]
    ) -> dict[ValueKey, str]:
        with_trace = "traceback" if any(key.what == "tb" for key in keys) else "NULL"
        found = self._cells_of(connection, namespace, run_id, keys, "data", with_trace)
        return {
            key: value if isinstance(value, str) else bytes(value).decode("ascii")
            for key, value in found.items()
            if value is not None
        }

    def _cells_of(
        self, connection: sa.Connection, namespace: str, run_id: bytes, keys: Sequence[ValueKey], data: str, trace: str
    ) -> dict[ValueKey, Any]:
        out: dict[ValueKey, Any] = {}
        wanted = set(keys)
        ordinals = sorted({int(key.key) for key in keys if key.of == "s"})
        arrivals = sorted({bytes.fromhex(str(key.key)) for key in keys if key.of == "a"})
        sql = f"SELECT ordinal, {data}, {trace} FROM aiki_steps WHERE namespace = ? AND run_id = ? AND ordinal"
        for ordinal, result, traceback in self.db.where_in(connection, sql, (namespace, run_id), ordinals):
            out[ValueKey("s", ordinal, "r")] = result
            out[ValueKey("s", ordinal, "tb")] = traceback
        sql = f"SELECT id, {data} FROM aiki_inbox WHERE namespace = ? AND run_id = ? AND id"
        for raw, carried in self.db.where_in(connection, sql, (namespace, run_id), arrivals):
            out[ValueKey("a", bytes(raw).hex(), "r")] = carried
        return {key: value for key, value in out.items() if key in wanted}


def _slices(due: Sequence[Due]) -> Iterator[Sequence[Due]]:
    """The runs in parts with a bounded number of steps; a run with more steps alone."""
    start = count = 0
    for at, (row, _) in enumerate(due):
        steps = row.history - row.history_from + _BESIDE if row.is_workflow else 0
        if at > start and count + steps > STEPS_AT_ONCE:
            yield due[start:at]
            start, count = at, 0
        count += steps
    yield due[start:]


_BESIDE = 20
"""What comes to a run from outside, in steps, as far as it is looked at before."""
_ROW = 150


def _add_step(story: _Story, item: Sequence[Any]) -> None:
    *row, size, trace_size = item
    encoding, data = row[8], row[9]
    absent = encoding is not None and data is None
    if absent:
        row[8] = None
    step = step_of(row)
    if absent:
        step.more["e"] = encoding
        story.large[ValueKey("s", step.ordinal, "r")] = int(size)
    if trace_size is not None and row[12] is None:
        story.large[ValueKey("s", step.ordinal, "tb")] = int(trace_size)
    story.history.steps.append(step)
    story.size += _ROW + int(size or 0) + int(trace_size or 0) + len(step.more.get("i", "")) + len(step.more.get("m", ""))


def _add_arrival(story: _Story, item: Sequence[Any]) -> None:
    *row, size = item
    encoding, data = row[6], row[7]
    absent = encoding is not None and data is None
    if absent:
        row[6] = None
    arrival = arrival_of(row)
    if absent:
        arrival = arrival._replace(encoding=encoding)
        story.large[ValueKey("a", arrival.id, "r")] = int(size)
    story.history.arrivals.append(arrival)
    story.size += _ROW + int(size or 0) + len(arrival.error_message or "")


def _texts(story: _Story) -> dict[ValueKey, int]:
    """All texts of a history that may be left out, with their lengths."""
    out = dict(story.large)
    for step in story.history.steps:
        for what in ("r", "tb"):
            if what in step.more:
                out[ValueKey("s", step.ordinal, what)] = len(step.more[what])
    for arrival in story.history.arrivals:
        # What a waking names, and what is not there, is part of the outline.
        if arrival.text is not None and arrival.kind != WOKEN:
            out[ValueKey("a", arrival.id, "r")] = len(arrival.text)
    return out
