"""One child: takes dispatches from the work queues, executes them one after the other, reports.

The main thread drains the connection greedily, runs what is ready for about five milliseconds, sends the reports of that as
one batch, looks what was confirmed, acks. It never waits for a confirmation unless it holds very many. While user code runs it
gives up `lock`, and the keeper thread does the I/O (`upkeep`): it sends finished reports, gives back what a slow task holds up,
reconnects, and acks the running task's message once that is leased.

After a lost connection everything prefetched and not begun is dropped, for the broker hands it out again; unconfirmed reports
are sent again in order; and the child consumes only once the link has had a fresh snapshot of the revocations.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from typing import Any, Final, NoReturn

from aiki import ids, logs, messages, tracing
from aiki.broker.base import Broker
from aiki.ceilings import REPORT_BYTES
from aiki.errors import MessageError
from aiki.messages import Dispatch, Report
from aiki.worker import process_hooks
from aiki.worker.connection import Connection
from aiki.worker.describe import describe
from aiki.worker.durable import Execution, Port
from aiki.worker.executor import Attempt, Executor, timeout_delay
from aiki.worker.freeing import Memory, silence_refusals
from aiki.worker.gate import Gate
from aiki.worker.identity import Identity
from aiki.worker.inbox import Inbox, Job
from aiki.worker.keeper import Keeper
from aiki.worker.ledger import Ledger
from aiki.worker.lifetime import Lifetime
from aiki.worker.live_reports import LiveReports
from aiki.worker.options import Options
from aiki.worker.process import default_in_copies, heed_not
from aiki.worker.registry import Registry
from aiki.worker.run_log import RunLog
from aiki.worker.slots import BUSY, IDLE, LEAVING, MAX_HELD, PREPARING, STARTING, Shared
from aiki.worker.strays import kill_own, threads_begun
from aiki.worker.subscriptions import FAIR_MS, SHORT_MS, Subscriptions

_log = logging.getLogger(__name__)

SLICE_NS: Final = 5_000_000
IDLE_SECONDS: Final = 2.0
SLOW_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 1.0
"""Jobs that wait behind a slow task for this long are given back even if no other child of this worker is idle."""
LEASE_SECONDS: Final = 10.0
BEAT_SECONDS: Final = 2.0
LEAVE_SECONDS: Final = 30.0
STUCK_SECONDS: Final = 10.0
"""How long a workflow's function may take to end once it is to be left."""
MAX_TOGETHER: Final = 50
"""Runs in a message that is given back."""


class Child:
    """See the module. Everything but `upkeep` runs on the main thread."""

    def __init__(self, identity: Identity, registry: Registry, options: Options, shared: Shared, broker: Broker) -> None:
        namespace = registry.settings.namespace
        self._identity = identity
        self._registry = registry
        self._options = options
        self._shared = shared
        self._slot = shared.slots[identity.slot]
        self._connection = Connection(broker, f"aiki-worker {options.name} child {identity.slot}", self._on_lost)
        self._ledger = Ledger(self._connection, self._slot, namespace, identity.worker, identity.executor)
        self._revoked = shared.revoked
        self._inbox = Inbox(registry, namespace, self._ledger, self._connection, self._revoked.covers)
        self._sources = Subscriptions(namespace, options.queues, options.prefetch, self._connection, self._slot, shared)
        self._gate = Gate(self._slot)
        self._executor = Executor(registry.settings, self._gate, self._leaving)
        self._lock = threading.Lock()
        parts = (self._lock, self._connection, self._ledger, self._inbox, self._gate, self._slot, shared)
        self._port = Port(*parts, identity.wake, self._leaving, registry.settings, self._abandon, self._executor.loop)
        self._keeper = Keeper(self._lock, self.upkeep, self._busy)
        self._log = RunLog(clock=shared.now) if registry.settings.run_logs else None
        self._live = LiveReports(self._executor, self._log, self._ledger)
        self._current: Job | None = None
        self._durable: Execution | None = None
        self._left_since = 0.0
        """Monotonic seconds: since when the workflow's function that runs is to be left; 0 while it is not."""
        self._began = 0
        self._settling = False
        """After a lost session, until a message comes that is not redelivered."""
        self._lifetime = Lifetime(options.max_tasks, options.max_memory)
        self._stopping = False
        self._next_beat = 0.0

    # ------------------------------------------------------------ life
    def run(self) -> int:
        """Work until the worker drains or this child is to be replaced; returns the exit code."""
        self._install_handlers()
        self._executor.loop.begin()
        if self._log is not None:
            self._log.install()
        silence_refusals()
        self._memory = Memory()
        default_in_copies(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        self._slot.state = PREPARING
        process_hooks.call(self._registry.hooks, "child_start", self._executor.loop)
        self._slot.state = STARTING
        with self._lock:
            self._keeper.start()
            self._slot.ready = True
            while not self._leaving():
                self.turn()
            self._leave()
        process_hooks.call_last(self._registry.hooks, self._executor.loop)
        return 0

    def _install_handlers(self) -> None:
        signal.signal(signal.SIGINT, heed_not)
        signal.signal(signal.SIGTERM, self._on_term)
        self._gate.install()

    def _on_term(self, _number: int, _frame: object) -> None:
        self._stopping = True
        os.eventfd_write(self._identity.wake, 1)

    def _leaving(self) -> bool:
        return self._stopping or self._shared.draining

    def _leave(self) -> None:
        """Give back what is not begun, and go once every report is confirmed."""
        self._slot.state = LEAVING
        deadline = time.monotonic() + LEAVE_SECONDS
        self._sources.unsubscribe()
        while time.monotonic() < deadline:
            for delivery in self._connection.receive(0):
                self._inbox.accept(delivery)
            self._inbox.give_back()
            self._ledger.flush()
            self._ledger.settle()
            if self._ledger.empty:
                break
            if not self._connection.connect():
                time.sleep(min(self._connection.retry_in(), 0.2))
                continue
            for delivery in self._connection.receive(0.5):
                self._inbox.accept(delivery)
        else:
            _log.error("leaving with %d reports unconfirmed after %g s", self._connection.unconfirmed, LEAVE_SECONDS)
        self._connection.close()
        tracing.flush()

    def _on_lost(self) -> None:
        self._inbox.jobs.clear()
        self._sources.lost()
        self._settling = True

    # ------------------------------------------------------------ the main loop
    def turn(self) -> None:
        """Once round: connect if needed, receive, settle, run, report."""
        connection, jobs = self._connection, self._inbox.jobs
        self._slot.turn(self._sources.active)
        if connection.session is None and not connection.connect():
            self._pause(min(connection.retry_in(), IDLE_SECONDS))
            return
        self._follow_pauses()
        self._sources.subscribe()
        if jobs:
            deliveries = connection.receive(0)
        else:
            if self._sources.active:
                self._slot.state = IDLE
            deliveries = connection.receive(IDLE_SECONDS, self._identity.wake)
            self._slot.state = BUSY
        for delivery in deliveries:
            self._inbox.accept(delivery)
        self._ledger.settle()
        complete = self._revoked.complete
        if self._slot.rid != complete and self._inbox.is_newer_than(complete):
            self._slot.rid = complete
        if jobs:
            self._settling = False
            self._keeper.note()
            self._work()
        elif deliveries:
            # Nothing to execute: inquiries after a restart of the broker, perhaps many thousands.
            self._sources.take_much()
        else:
            self._clear_wake()
        self._ledger.flush()

    def _pause(self, seconds: float) -> None:
        poller = select.poll()
        poller.register(self._identity.wake, select.POLLIN)
        if poller.poll(max(seconds, 0.01) * 1000):
            self._clear_wake()

    def _clear_wake(self) -> None:
        try:
            os.eventfd_read(self._identity.wake)
        except BlockingIOError:
            pass

    def _follow_pauses(self) -> None:
        """Take nothing from paused queues, and give back what came from them and is not begun; take from resumed ones again."""
        self._sources.follow_pauses()
        if self._sources.paused and self._inbox.jobs:
            self._inbox.pass_on(self._sources.paused)

    def _work(self) -> None:
        """Run jobs for about a slice."""
        jobs, ledger = self._inbox.jobs, self._ledger
        self._sources.alternate(jobs)
        began = now = time.monotonic_ns()
        done = 0
        while jobs and now - began < SLICE_NS and not self._leaving() and self._slot.tail - ledger.held < MAX_HELD:
            if self._sources.pauses_matter:
                self._follow_pauses()
                if not jobs:
                    break
            self._run_job(jobs.popleft())
            done += 1
            if ledger.size > REPORT_BYTES:
                ledger.flush()
            now = time.monotonic_ns()
        if jobs and self._slot.tail - ledger.held >= MAX_HELD:
            self._wait_for_confirmations()
        elif jobs and done and (now - began) * len(jobs) > SLOW_SECONDS * 1e9 * done and self._another_is_idle():
            # At this rate the rest takes long, and an idle child says that the queues are empty: share with it.
            self._share((now - began) // done // 1_000_000, keep=(len(jobs) + 1) // 2)
        if not self._stopping and self._lifetime.over_by_memory():
            self._stopping = True

    def _share(self, millis: int, keep: int = 0) -> None:
        """Give jobs back for others, in lists of about as much work as a child prefetches if each takes `millis`."""
        self._inbox.give_back(keep, max(1, min(MAX_TOGETHER, FAIR_MS // max(1, millis))))

    def _wait_for_confirmations(self) -> None:
        self._ledger.flush()
        for delivery in self._connection.receive(IDLE_SECONDS, self._identity.wake):
            self._inbox.accept(delivery)
        self._ledger.settle()

    # ------------------------------------------------------------ one run
    def _run_job(self, job: Job) -> None:
        """Begin, execute and report one run. The order of begin and revocation check is the promise of `ASK` (slots.py)."""
        dispatch, definition = job.dispatch, job.definition
        soft, hard = self._limits(job)
        began = time.monotonic_ns()
        index = self._slot.begin(
            job.run,
            dispatch.epoch,
            dispatch.partition,
            self._registry.index[dispatch.name],
            began,
            soft,
            hard,
            timeout_delay(dispatch, definition) if hard else -1.0,
            dispatch.attempt,
        )
        if messages.OPT_BIND_FIRST in dispatch.options and not self._bind(job, began):
            self._finish(index, job, Report(messages.RETURNED, dispatch.run_id, dispatch.epoch, {"ms": 0}))
            return
        if self._revoked.covers(job.run, dispatch.epoch):
            self._finish(index, job, Report(messages.DROPPED, dispatch.run_id, dispatch.epoch, {}))
            return
        self._keep_logging()
        attempt = Attempt(dispatch, definition, began)
        if definition.kind == "workflow" and not self._prepare(index, job, attempt):
            return
        report = self._execute(index, job, attempt, soft)
        self._clear_away(attempt, report)
        if attempt.durable is not None:
            self._ledger.add_steps(job.dispatch, attempt.durable.close())
            index = self._slot.tail - 1
        self._live.add_all(job.dispatch)
        self._finish(index, job, report)
        self._after(dispatch, report)

    def _keep_logging(self) -> None:
        """Install Aiki's log handlers again: an earlier run may have replaced them."""
        if _log.disabled:
            logs.revive()
        if self._log is not None:
            self._log.install()

    def _prepare(self, index: int, job: Job, attempt: Attempt) -> bool:
        """Read a workflow's history; False where it cannot be read, which fails the run."""
        dispatch = job.dispatch
        try:
            attempt.durable = Execution(self._port, dispatch, job.definition, index, self._executor.note_progress)
        except MessageError as error:
            self._cannot_begin(index, job, "aiki.errors.MessageError", str(error))
            return False
        except Exception as error:  # noqa: BLE001  a history that is read, and makes no sense all the same, is this run's trouble alone
            _log.exception("run %s: its history cannot be used", dispatch.run_id)
            self._cannot_begin(index, job, *describe(error)[:2])
            return False
        return True

    def _cannot_begin(self, index: int, job: Job, kind: str, message: str) -> None:
        body = {"ms": 0, "type": kind, "message": message, "tb": "", "outcome": "failed"}
        self._finish(index, job, Report(messages.FAILED, job.dispatch.run_id, job.dispatch.epoch, body))

    def _limits(self, job: Job) -> tuple[float, float]:
        options, definition = job.dispatch.options, job.definition
        soft = options.get(messages.OPT_SOFT_TIME_LIMIT) or definition.soft_time_limit or self._options.soft_time_limit
        hard = options.get(messages.OPT_TIME_LIMIT) or definition.time_limit or self._options.time_limit
        return soft or 0.0, hard or 0.0

    def _execute(self, index: int, job: Job, attempt: Attempt, soft: float) -> Report:
        if not self._gate.installed():
            _log.warning("a task replaced the handler of SIGUSR1, which time limits and cancels need; it is put back")
            self._install_handlers()
        self._gate.arm(index, soft)
        self._began = attempt.began
        self._durable, self._left_since = attempt.durable, 0.0
        self._current = job
        self._slot.execute(index)
        self._lock.release()
        try:
            if attempt.durable is None:
                return self._executor.execute(attempt)
            with attempt.durable.call():
                report = self._executor.execute(attempt)
                error, attempt.error, attempt.result = attempt.error, None, None
                attempt.args, attempt.kwargs = [], {}
                attempt.durable.free(error)
                return report
        finally:
            self._slot.executed()
            self._lock.acquire()
            self._current = self._durable = None

    def _clear_away(self, attempt: Attempt, report: Report) -> None:
        """Kill the processes that an interrupted attempt has started.

        They may have been a pool that other runs would use, and a thread cannot be ended, so this child is replaced then.
        """
        if self._gate.raised and report.kind != messages.COMPLETED:
            killed = kill_own(self._identity.mark, os.getppid(), attempt.began)
            left = threads_begun(attempt.began, (os.getpid(), self._keeper.native_id))
            if killed or left:
                _log.info(
                    "leaving after a run that was interrupted: it had started %d processes, which are killed, and %d threads",
                    len(killed),
                    len(left),
                )
                self._stopping = True

    def _abandon(self) -> NoReturn:
        """The main thread cannot leave the workflow's function that it is in."""
        with self._lock:
            self._end_stuck()

    def _end_stuck(self) -> NoReturn:
        """Report the run as failed, give back the rest, and end this process: there is no other way out of that function."""
        job, durable = self._current, self._durable
        assert job is not None
        assert durable is not None
        dispatch = job.dispatch
        body: dict[str, Any] = {"ms": (time.monotonic_ns() - self._began) // 1_000_000}
        kind = durable.stuck_report(body)
        self._ledger.add_steps(dispatch, durable.close())
        self._slot.executed()
        self._finish(self._slot.tail - 1, job, Report(kind, dispatch.run_id, dispatch.epoch, body))
        _log.error("the function of run %s of %s cannot be left; this child ends for it", dispatch.run_id, dispatch.name)
        self._leave()
        logging.shutdown()
        os._exit(0)

    def _finish(self, index: int, job: Job, report: Report) -> None:
        self._ledger.begun_and_reported = index + 1
        self._ledger.add(job.dispatch.partition, report, None if job.leased else job.message)

    def _bind(self, job: Job, began: int) -> bool:
        """Report `started` and wait until that is confirmed; False when the child is to leave first.

        The run may end this process. So all other jobs go back first, and this is confirmed and acked when the method returns:
        no inquiry about them is needed afterwards.
        """
        dispatch = job.dispatch
        self._sources.unsubscribe()
        # Many suspects may come one after the other: what is taken beside each would be given back each time.
        self._sources.take_one()
        body = {"ms": (time.monotonic_ns() - began) // 1_000_000}
        self._ledger.add(dispatch.partition, Report(messages.STARTED, dispatch.run_id, dispatch.epoch, body), None)
        while True:
            self._slot.turn(self._sources.active)
            for delivery in self._connection.receive(0):
                self._inbox.accept(delivery)
            self._inbox.pass_on()
            self._ledger.flush()
            self._ledger.settle()
            if self._ledger.empty:
                self._connection.beat()  # sends the acks, too
                return True
            if self._leaving():
                return False
            if not self._connection.connect():
                self._pause(min(self._connection.retry_in(), IDLE_SECONDS))
                continue
            for delivery in self._connection.receive(IDLE_SECONDS, self._identity.wake):
                self._inbox.accept(delivery)
            self._clear_wake()

    def _after(self, dispatch: Dispatch, report: Report) -> None:
        """Adapt the prefetch to the duration of the run, and see whether this child is to be replaced."""
        if report.kind in (messages.FAILED, messages.RETRY):
            run_id = ids.to_text(bytes.fromhex(dispatch.run_id))
            error = report.body["type"]
            _log.warning("run %s of %s, attempt %d: %s: %s", run_id, dispatch.name, dispatch.attempt, report.kind, error)
        took = report.body["ms"]
        if took >= SHORT_MS or messages.OPT_HISTORY in dispatch.options:
            self._memory.settle()
        if self._sources.note_duration(took) and self._inbox.jobs and self._another_is_idle():
            self._share(took)
        if self._lifetime.over_after_run():
            self._stopping = True

    # ------------------------------------------------------------ the keeper's work, while user code runs
    def _busy(self) -> bool:
        return self._current is not None

    def upkeep(self) -> None:
        """Do the I/O that is due while the main thread is in user code. Called with the lock held."""
        job, connection, ledger = self._current, self._connection, self._ledger
        if job is None:
            return
        now = time.monotonic()
        ran = now - self._began / 1e9
        if connection.session is None and not connection.connect():
            return
        self._live.add_due(job.dispatch, now)
        if self._durable is not None and self._durable.leaving:
            self._left_since = self._left_since or now
            if now - self._left_since >= STUCK_SECONDS:
                self._end_stuck()
        ledger.flush()
        if ran >= SLOW_SECONDS:
            if self._settling and not self._leaving() and messages.OPT_BIND_FIRST not in job.dispatch.options:
                self._settle_backlog()
            else:
                self._follow_pauses()
                self._make_way(ran)
        if ran >= LEASE_SECONDS and not job.leased and self._slot.leased == self._gate.index:
            self._lease(job)
        if connection.unconfirmed or now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            for delivery in connection.receive(0):
                self._inbox.accept(delivery)
            ledger.settle()
            connection.beat()

    def _settle_backlog(self) -> None:
        """Report redelivered messages although this child is busy: they must not be executed as they are.

        After a crash of the broker a whole backlog is flagged as redelivered. Runs that are dispatched anew by the time a
        child is free can begin at once. The first message that is not redelivered ends it; jobs that may be begun are passed
        on.
        """
        self._sources.take_to_settle()
        for delivery in self._connection.receive(0):
            self._inbox.accept(delivery)
        if self._inbox.jobs:
            self._settling = False
            self._sources.unsubscribe()
            for delivery in self._connection.receive(0):
                self._inbox.accept(delivery)
            self._inbox.pass_on()
        self._ledger.flush()

    def _make_way(self, ran: float) -> None:
        """Give back jobs that wait behind the slow task and that another child could run."""
        if self._sources.takes_ahead:
            self._sources.unsubscribe()
            for delivery in self._connection.receive(0):
                self._inbox.accept(delivery)
        if self._inbox.jobs and (ran >= PATIENCE_SECONDS or self._leaving() or self._another_is_idle()):
            self._inbox.give_back()
            self._ledger.flush()

    def _another_is_idle(self) -> bool:
        return any(slot.state == IDLE for slot in self._shared.slots if slot is not self._slot)

    def _lease(self, job: Job) -> None:
        """The heartbeats keep the run from now on: its message is acked, so that no time-out of the broker matters."""
        self._sources.unsubscribe()
        self._inbox.give_back()
        job.leased = True
        job.message.outstanding -= 1
        if job.message.outstanding == 0:
            self._ledger.ack([job.message])
