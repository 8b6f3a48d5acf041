"""Workflows that are executed on a real store: their reports go into the database, their histories come out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiki import codec, ids
from aiki import messages as m
from aiki.history import CHILD_ENDED, EVENT_SENT, History, Step
from aiki.lifecycle.record import SELECT_RUN, run_row
from tests.replay.host import Ended, World
from tests.storage.bench import Bench


class StoredWorld(World):
    """A run of `World` whose truth is in a database; what `World` itself keeps is compared with that at each dispatch."""

    def __init__(self, bench: Bench, *args: Any, name: str = "shop.flow") -> None:
        super().__init__(now=bench.clock.now, name=name)
        self.bench = bench
        self.id = bench.start(name, *args)
        self.dispatched: list[History] = []

    def history(self) -> History:
        self.now = self.bench.clock.now
        found, mine = self.bench.history(self.id), super().history()
        without = [step._replace(more={k: v for k, v in step.more.items() if k not in ("ms", "w")}) for step in mine.steps]
        assert found.steps == without, "memory and database differ"
        self.dispatched.append(found)
        return found

    def record(self, steps: list[Step]) -> None:
        if steps:
            self.bench.steps(self.id, *steps)
        super().record(steps)

    def whole(self) -> History:
        """The history as it is now, whether or not it is dispatched."""
        store = self.bench.store

        def read(connection: Any) -> History:
            sql = f"SELECT {SELECT_RUN} FROM aiki_runs WHERE id = ?"
            row = run_row(store.db.execute(connection, sql, (bytes.fromhex(self.id),)).fetchone())
            [outgoing] = store.outgoing(connection, "default", [(row, False)]).outgoing
            return History.from_wire(outgoing.dispatch.options[m.OPT_HISTORY])

        return store.db.read(read)

    def call(self, fn: Callable[..., Any], *args: Any) -> Ended:
        self.cancelling = m.OPT_CANCEL in self.bench.out[self.id].options
        given = codec.decode(codec.Payload(self.bench.out[self.id].encoding, self.bench.out[self.id].input))
        ended = super().call(fn, *given[0])
        self._report(ended)
        return ended

    def _report(self, ended: Ended) -> None:
        bench = self.bench
        if ended.kind == "suspended":
            assert ended.waits is not None
            bench.suspend(self.id, *ended.waits.items, every=ended.waits.all)
        elif ended.kind == "completed":
            bench.complete(self.id, ended.value)
        elif ended.kind == "continued":
            bench.report(self.id, (m.CONTINUED, dict(zip(("e", "r"), codec.encode(ended.value), strict=True))))
            self.steps.clear()
            self.first = 0
        elif ended.kind == "cancelled":
            bench.report(self.id, (m.CANCELLED, {"ms": 1, "met": 1}))
        elif ended.kind == "failed":
            bench.fail(self.id, kind=type(ended.error).__name__, message=str(ended.error))
        else:
            raise AssertionError(f"not foreseen here: {ended}")

    def satisfy(self, ended: Ended, tasks: Mapping[str, Any], events: Mapping[str, Any]) -> None:
        assert ended.waits is not None
        bench = self.bench
        if bench.out[self.id].epoch == bench.row(self.id)["epoch"]:
            return  # it was dispatched at once
        for item in ended.waits.items:
            if item.kind == CHILD_ENDED:
                for ordinal in range(item.first, item.last + 1):
                    self.run_child(ordinal, tasks)
            if item.kind == EVENT_SENT and item.name in events:
                bench.send(self.id, item.name, events[item.name])
        bench.stir()
        due = bench.delivery(self.id)
        if bench.state(self.id) == "waiting":
            assert due is not None, f"nothing brings it on: {ended.waits}"
            bench.clock.now = max(bench.clock.now, due)
            assert self.id in bench.sweep()
        bench.clock.move(1)

    def run_child(self, ordinal: int, tasks: Mapping[str, Any]) -> None:
        child = self.children[ordinal]
        run = ids.to_bytes(child.id).hex()
        args, kwargs = codec.decode(child.input)
        try:
            self.bench.complete(run, tasks[child.name].fn(*args, **kwargs))
        except Exception as error:
            self.bench.fail(run, kind=type(error).__name__, message=str(error))
