"""A deploy in one process: releases of one module, a real database, and the executor that workers have; no process, no broker.

`Fleet.load` imports a release, `Fleet.enqueue` is what its clients do, `Fleet.work` what its workers do with a dispatch.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aiki import Aiki, codec, ids, messages
from aiki.classes import CLASSES
from aiki.context import inside_step
from aiki.history import UNDO, History, Step
from aiki.lifecycle import reports
from aiki.lifecycle.reports import Source
from aiki.lifecycle.skills import Skill
from aiki.messages import Report
from aiki.model import NewRun
from aiki.replay import Limits, Replay
from aiki.settings import Settings
from aiki.storage import Store
from aiki.worker.describe import describe
from aiki.worker.durable import Execution
from aiki.worker.executor import Attempt, Executor
from aiki.worker.gate import Gate
from aiki.worker.registry import tries_of
from aiki.worker.slots import Shared
from aiki.workflow_host import About, StepCall
from aiki.workflow_run import WorkflowRun
from tests.storage.bench import Bench
from tests.storage.conftest import SetClock

MODULE = "released_shop"
HEAD = """
from __future__ import annotations
import enum
from dataclasses import dataclass, field
from typing import Any
from aiki import Aiki, WorkflowRun
app = Aiki("released")
"""


class Release:
    """One release of the module, as the workers and the clients have it that run it."""

    def __init__(self, source: str, number: int) -> None:
        self.module = types.ModuleType(MODULE)
        self.worker = Source(f"{number:032x}", f"{number:032x}/0.1")
        sys.modules[MODULE] = self.module
        exec(compile(HEAD + source, f"<release {number}>", "exec"), vars(self.module))
        self.app: Aiki = self.module.app

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def act(self) -> None:
        """Be what this process has loaded."""
        sys.modules[MODULE] = self.module
        CLASSES._names.clear()
        CLASSES._classes.clear()
        CLASSES._waiting.clear()
        CLASSES._former.clear()
        for definition in self.app.versions.values():
            CLASSES.add(definition.fn)
        on_start = getattr(self.module, "on_start", None)
        if on_start is not None:
            on_start()


class Fleet:
    """Clients and workers of several releases."""

    def __init__(self, store: Store, clock: SetClock) -> None:
        self.bench = Bench(store, clock)
        self.slot = Shared(1).slots[0]
        self.slot.reset()
        self.gate = Gate(self.slot)
        self.gate.install()
        self.executor = Executor(Settings.load({}), self.gate)
        self.releases: list[Release] = []

    def load(self, source: str) -> Release:
        """Import a release, in place of the one before."""
        self.releases.append(Release(source, len(self.releases) + 1))
        self.releases[-1].act()
        return self.releases[-1]

    # ------------------------------------------------------------ clients
    def enqueue(self, release: Release, name: str, *args: Any, **kwargs: Any) -> str:
        """What `enqueue` records; the run's id."""
        release.act()
        return self.send(release, getattr(release, name).plain._new_run(args, kwargs))

    def send(self, release: Release, run: NewRun) -> str:
        """Have a run recorded; its id."""
        release.act()
        self.bench._take(self.bench.store.create_runs([run], claim=5).outgoing)
        return ids.to_bytes(run.id).hex()

    def result(self, release: Release, run: str) -> Any:
        """What `handle.result()` gives."""
        release.act()
        assert self.bench.state(run) == "completed", self.told(run)
        end = self.bench.store.ends([self.bench.text(run)])[self.bench.text(run)]
        return None if end.result is None else codec.decode(end.result)

    def told(self, run: str) -> str:
        """State and error."""
        row = self.bench.row(run)
        return f"{row['state']}: {row['error_type']}: {row['error_message'] or row['waiting_on']}"

    # ------------------------------------------------------------ workers
    def work(self, release: Release, run: str) -> str:
        """Have a worker of the release take the newest dispatch; the run's state then."""
        release.act()
        self._know(release)
        dispatch = self.bench.out[run]
        assert dispatch.epoch == self.bench.row(run)["epoch"], "nothing is dispatched"
        definition = release.app.versions.get((dispatch.name, dispatch.version))
        if definition is None or definition.kind != dispatch.options.get(messages.OPT_KIND, "task"):
            body = {"name": dispatch.name, "version": dispatch.version}
            self.bench.report(run, (messages.UNKNOWN, body), source=release.worker)
            return self.bench.state(run)
        attempt = Attempt(dispatch, definition, time.monotonic_ns())
        index = self.slot.begin(bytes.fromhex(run), dispatch.epoch, 0, 0, time.monotonic_ns(), 0, 0, -1, dispatch.attempt)
        self.gate.arm(index, 0)
        self.slot.execute(index)
        try:
            report = self._execute(attempt, release, run)
        finally:
            self.slot.executed()
            self.slot.confirm(index + 1)
        self.bench.report(run, (report.kind, report.body), source=release.worker)
        self.bench.stir()
        return self.bench.state(run)

    def _execute(self, attempt: Attempt, release: Release, run: str) -> Report:
        if attempt.definition.kind != "workflow":
            return self.executor.execute(attempt)
        durable = attempt.durable = Durable(self, attempt, release, run)
        with durable.call():
            report = self.executor.execute(attempt)
        durable.host.record()
        return report

    def _know(self, release: Release) -> None:
        known = {
            key: {release.worker.worker: Skill(definition.kind, frozenset({"default"}))}
            for key, definition in release.app.versions.items()
        }
        self.bench.known = known

    def deploy(self, release: Release, run: str) -> str:
        """A worker of the release says hello: what is stalled and can be executed goes on; the run's state then."""
        self._know(release)
        self.bench.decide(run, lambda row, rules, effects, outcome: reports.unpark(row, rules, effects))
        if self.bench.state(run) == "queued":
            return self.work(release, run)
        return self.bench.state(run)


class Durable(Execution):
    """A workflow's function, over the history of a dispatch."""

    def __init__(self, fleet: Fleet, attempt: Attempt, release: Release, run: str) -> None:
        dispatch = attempt.dispatch
        wire = dispatch.options.get(messages.OPT_HISTORY)
        history = History.from_wire(None if wire is None else json.loads(json.dumps(wire)))
        self._replay = Replay(dispatch.name, history, Limits())
        self.host = Host(fleet, self._replay, release, run)
        tries = tries_of(dispatch, attempt.definition)
        about = About(dispatch.run_id, dispatch.name, dispatch.version, dispatch.attempt, tries=tries)
        self.run = WorkflowRun(self.host, self._replay, about, attempt.definition.arguments)
        self._host = self.host  # type: ignore[assignment]
        self._call = None
        self._left = False
        self._name = dispatch.name


class Host:
    """See `aiki.workflow_host.Host`."""

    cancel_requested = pausing = leaving = aborted = False
    undone = False
    max_payload = 1_000_000

    def __init__(self, fleet: Fleet, replay: Replay, release: Release, run: str) -> None:
        self._fleet = fleet
        self._replay = replay
        self._release = release
        self._run = run
        self._pending: list[Step] = []

    def operation(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def now(self) -> int:
        return self._fleet.bench.clock.now

    def report(self, steps: list[Step]) -> None:
        self.undone = self.undone or any(step.kind == UNDO for step in steps)
        self._pending += steps

    def confirm(self) -> bool:
        self.record()
        return True

    def record(self) -> None:
        steps, self._pending = self._pending + self._replay.take_fresh(), []
        if steps:
            self._fleet.bench.report(self._run, (messages.STEPS, {"s": steps}), source=self._release.worker)

    def execute(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], call: StepCall) -> Any:
        with inside_step(call.step.ordinal, call.attempt, call.step.name, call.max_attempts):
            assert not inspect.iscoroutinefunction(fn)
            return fn(*args, **kwargs)

    def describe(self, error: BaseException) -> tuple[str, str, str]:
        return describe(error)

    def progress(self, fraction: float | None, message: str) -> None:
        pass


@contextlib.contextmanager
def fleet(store: Store, clock: SetClock) -> Iterator[Fleet]:
    """A fleet; this process has loaded afterwards what it had before."""
    before = dict(CLASSES._names), dict(CLASSES._classes), list(CLASSES._waiting)
    handler = signal.getsignal(signal.SIGUSR1)
    try:
        yield Fleet(store, clock)
    finally:
        signal.signal(signal.SIGUSR1, handler)
        sys.modules.pop(MODULE, None)
        CLASSES._names, CLASSES._classes, CLASSES._waiting = before
        CLASSES._fresh = True
