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
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from aiki import ids, logs, messages, tracing
from aiki.broker.base import Address, Broker, work
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
from aiki.worker.inbox import Inbox, Job
from aiki.worker.keeper import Keeper
from aiki.worker.ledger import Ledger
from aiki.worker.options import Options
from aiki.worker.process import default_in_copies, heed_not, rss_kib
from aiki.worker.registry import Registry
from aiki.worker.run_log import RunLog
from aiki.worker.slots import BUSY, IDLE, LEAVING, MAX_HELD, PREPARING, STARTING, Shared
from aiki.worker.strays import Mark, kill_own, threads_begun

_log = logging.getLogger(__name__)

SLICE_NS: Final = 5_000_000
IDLE_SECONDS: Final = 2.0
SLOW_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 1.0
"""What waits behind a slow task for this long is given back even if no other child of this worker is idle."""
LEASE_SECONDS: Final = 10.0
BEAT_SECONDS: Final = 2.0
PROGRESS_SECONDS: Final = 0.25
LOG_SECONDS: Final = 1.0
LEAVE_SECONDS: Final = 30.0
MEMORY_SECONDS: Final = 0.02
START_PREFETCH: Final = 2
SHORT_MS: Final = 5
FAIR_MS: Final = 100
"""A child prefetches about this much work, and with tasks that are not short, no more than it needs."""
SHORT_STREAK: Final = 5
SLOW_STREAK: Final = 2
"""A run that took a little longer amid short ones perhaps only waited for a processor: that says nothing of the next."""
SETTLE_PREFETCH: Final = 8
"""Messages that a busy child takes ahead to have them settled, see `Child._settle_backlog`."""
STUCK_SECONDS: Final = 10.0
"""How long a workflow's function may take to end once it is to be left."""
MAX_TOGETHER: Final = 50
"""Runs in a message that is given back."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a child is. `worker` is the worker incarnation's id; `wake` an eventfd that others write to have it look up;
    `mark` tells the processes that it starts."""

    worker: str
    slot: int
    incarnation: int
    wake: int
    mark: Mark

    @property
    def executor(self) -> str:
        """How reports name this child."""
        return f"{self.worker}/{self.slot}.{self.incarnation}"


class Child:
    """See the module. Everything but `upkeep` runs on the main thread."""

    def __init__(self, identity: Identity, registry: Registry, options: Options, shared: Shared, broker: Broker) -> None:
        namespace = registry.settings.namespace
        self._identity = identity
        self._registry = registry
        self._options = options
        self._shared = shared
        self._slot = shared.slots[identity.slot]
        self._lost_at = 0
        """Monotonic nanoseconds: consume only with a snapshot asked for after this."""
        self._connection = Connection(broker, f"aiki-worker {options.name} child {identity.slot}", self._on_lost)
        self._ledger = Ledger(self._connection, self._slot, namespace, identity.worker, identity.executor)
        self._revoked = shared.revoked
        self._noticed = 0
        """The newest number of complete turns of the revocations that was noticed."""
        self._marked = 0
        self._taken_before = 0
        """The number of the newest of the jobs that were here when `_marked` was set to that number."""
        self._inbox = Inbox(registry, namespace, self._ledger, self._connection, self._revoked.covers)
        self._sources = [work(namespace, queue) for queue in options.queues]
        self._gate = Gate(self._slot)
        self._executor = Executor(registry.settings, self._gate, self._leaving)
        self._lock = threading.Lock()
        parts = (self._lock, self._connection, self._ledger, self._inbox, self._gate, self._slot, shared)
        self._port = Port(*parts, identity.wake, self._leaving, registry.settings, self._abandon, self._executor.loop)
        self._keeper = Keeper(self._lock, self.upkeep, self._busy)
        self._log = RunLog(clock=shared.now) if registry.settings.run_logs else None
        self._current: Job | None = None
        self._durable: Execution | None = None
        self._left_since = 0.0
        """Monotonic seconds: since when the workflow's function that runs is to be left; 0 while it is not."""
        self._began = 0
        self._subscribed = False
        self._served = dict.fromkeys(options.queues, 0)
        """For each queue the number of the slice that began with it last."""
        self._slices = 0
        self._pauses = 0
        """How often the paused queues had changed when they were last looked at."""
        self._paused: frozenset[str] = frozenset()
        self._unwanted: frozenset[Address] = frozenset()
        self._settling = False
        """After a lost session, until a message comes that is not redelivered."""
        self._prefetch = min(START_PREFETCH, options.prefetch)
        self._wanted_prefetch = self._prefetch
        self._streak = 0
        """How many short runs were the last ones, or below zero how many that were not short."""
        self._executed = 0
        self._stopping = False
        self._next_beat = 0.0
        self._next_progress = 0.0
        self._next_memory = 0.0
        self._next_logs = 0.0

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
        self._unsubscribe()
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
        self._subscribed = False
        self._settling = True
        self._need_snapshot()

    def _need_snapshot(self) -> None:
        self._lost_at = self._slot.want = time.monotonic_ns()

    # ------------------------------------------------------------ the main loop
    def turn(self) -> None:
        """Once round: connect if needed, receive, settle, run, report."""
        connection, jobs = self._connection, self._inbox.jobs
        self._slot.turn(self._subscribed)
        if connection.session is None and not connection.connect():
            self._pause(min(connection.retry_in(), IDLE_SECONDS))
            return
        self._heed_pauses()
        if not self._subscribed or self._prefetch != self._wanted_prefetch:
            self._subscribe()
        if jobs:
            deliveries = connection.receive(0)
        else:
            if self._subscribed:
                self._slot.state = IDLE
            deliveries = connection.receive(IDLE_SECONDS, self._identity.wake)
            self._slot.state = BUSY
        for delivery in deliveries:
            self._inbox.accept(delivery)
        self._ledger.settle()
        if self._slot.rid != self._revoked.complete:
            self._note_rid()
        if jobs:
            self._settling = False
            self._keeper.note()
            self._work()
        elif deliveries:
            # Nothing to execute: inquiries after a restart of the broker, perhaps many thousands.
            self._wanted_prefetch = self._options.prefetch
        else:
            self._clear_wake()
        self._ledger.flush()

    def _note_rid(self) -> None:
        """Say so once nothing is here any more that was taken before the revocations were last told whole."""
        complete = self._revoked.complete
        if self._noticed != complete:
            self._noticed = complete  # what was sent to this child by now is received in the next turn
        elif self._marked != complete:
            self._marked = complete
            self._taken_before = self._inbox.taken
        elif not any(job.number <= self._taken_before for job in self._inbox.jobs):
            self._slot.rid = complete

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

    def _subscribe(self) -> None:
        if self._shared.go <= self._lost_at:
            return  # the link writes `wake` when it has the snapshot
        # With slow tasks each subscription brings what stands first in the queue that is named first: so all get their turn.
        named = sorted(zip(self._options.queues, self._sources, strict=True), key=lambda pair: self._served[pair[0]])
        sources = [source for _, source in named if source not in self._unwanted]
        share = max(1, self._wanted_prefetch // max(1, len(sources)))
        if all(self._connection.subscribe(source, share) for source in sources):
            self._subscribed = True
            self._prefetch = self._wanted_prefetch

    def _unsubscribe(self) -> None:
        if self._subscribed:
            self._subscribed = False
            for source in self._sources:
                self._connection.unsubscribe(source)

    def _heed_pauses(self) -> None:
        """Take nothing from paused queues, and give back what came from them and is not begun; take from resumed ones again."""
        if self._shared.pauses != self._pauses:
            self._pauses = self._shared.pauses
            named = zip(self._options.queues, self._sources, self._shared.paused, strict=True)
            paused = {queue: source for queue, source, is_ in named if is_}
            self._paused, self._unwanted = frozenset(paused), frozenset(paused.values())
            self._unsubscribe()  # the next turn subscribes to what is wanted
        if self._paused and self._inbox.jobs:
            self._inbox.pass_on(self._paused)

    def _work(self) -> None:
        """Run jobs for about a slice."""
        jobs, ledger = self._inbox.jobs, self._ledger
        if len(self._served) > 1:
            self._alternate()
        began = now = time.monotonic_ns()
        done = 0
        while jobs and now - began < SLICE_NS and not self._leaving() and self._slot.tail - ledger.held < MAX_HELD:
            if self._paused or self._shared.pauses != self._pauses:
                self._heed_pauses()
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
        self._check_memory()

    def _alternate(self) -> None:
        """Begin with the queue that was begun with the longest ago: the slow tasks of one do not hold up those of another."""
        jobs, served = self._inbox.jobs, self._served
        queue = min({job.message.queue for job in jobs}, key=lambda name: served.get(name, 0))
        at = next(at for at, job in enumerate(jobs) if job.message.queue == queue)
        if at:
            first = jobs[at]
            del jobs[at]
            jobs.appendleft(first)
        self._slices += 1
        served[queue] = self._slices

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
        if self._executor.last_progress is not None:
            self._report_progress(job)
        if self._log is not None and self._log.waiting:
            self._report_logs(job)
        self._finish(index, job, report)
        self._after(dispatch, report)

    def _keep_logging(self) -> None:
        """An earlier run may have set up logging anew: ours is there all the same."""
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
        """What an interrupted attempt has started does not outlive it.

        A pool among that may be one that other runs would use, and a thread cannot be ended, so this child is replaced then.
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

        The run may end this process. So all else that is here goes back before, and is confirmed and acked when this returns:
        nobody has to be asked about it afterwards.
        """
        dispatch = job.dispatch
        self._unsubscribe()
        # Many suspects may come one after the other: what is taken beside each would be given back each time.
        self._wanted_prefetch, self._streak = 1, 0
        body = {"ms": (time.monotonic_ns() - began) // 1_000_000}
        self._ledger.add(dispatch.partition, Report(messages.STARTED, dispatch.run_id, dispatch.epoch, body), None)
        while True:
            self._slot.turn(self._subscribed)
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
        """What the run says about prefetching, and whether this child has had enough."""
        if report.kind in (messages.FAILED, messages.RETRY):
            run_id = ids.to_text(bytes.fromhex(dispatch.run_id))
            error = report.body["type"]
            _log.warning("run %s of %s, attempt %d: %s: %s", run_id, dispatch.name, dispatch.attempt, report.kind, error)
        took = report.body["ms"]
        if took >= SHORT_MS or messages.OPT_HISTORY in dispatch.options:
            self._memory.settle()
        if took < SHORT_MS:
            self._streak = max(self._streak, 0) + 1
            if self._streak == SHORT_STREAK:
                self._wanted_prefetch = self._options.prefetch
        else:
            self._streak = min(self._streak, 0) - 1
            if took >= FAIR_MS or self._streak <= -SLOW_STREAK:
                self._wanted_prefetch = min(self._wanted_prefetch, max(1, FAIR_MS // took))
                if self._inbox.jobs and self._another_is_idle():
                    self._share(took)
        self._executed += 1
        if self._executed == self._options.max_tasks:
            _log.info("leaving after %d tasks", self._executed)
            self._stopping = True

    def _check_memory(self) -> None:
        limit = self._options.max_memory
        if not limit or self._stopping:
            return
        now = time.monotonic()
        if now < self._next_memory:
            return
        self._next_memory = now + MEMORY_SECONDS
        rss = rss_kib(os.getpid())
        if rss > limit:
            _log.info("leaving with %d KiB of memory, over the limit of %d", rss, limit)
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
        if self._executor.last_progress is not None and now >= self._next_progress:
            self._next_progress = now + PROGRESS_SECONDS
            self._report_progress(job)
        if self._log is not None and self._log.waiting and now >= self._next_logs:
            self._next_logs = now + LOG_SECONDS
            self._report_logs(job)
        if self._durable is not None and self._durable.leaving:
            self._left_since = self._left_since or now
            if now - self._left_since >= STUCK_SECONDS:
                self._end_stuck()
        ledger.flush()
        if ran >= SLOW_SECONDS:
            if self._settling and not self._leaving() and messages.OPT_BIND_FIRST not in job.dispatch.options:
                self._settle_backlog()
            else:
                self._heed_pauses()
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
        """Have redelivered messages settled although this child is busy: nobody is to execute them as they are.

        After a crash of the broker a whole backlog is flagged. What is dispatched anew by the time a child is free can begin at
        once. The first message that is not redelivered ends it; what may be begun is passed on.
        """
        if not self._subscribed:
            self._wanted_prefetch = min(SETTLE_PREFETCH, self._options.prefetch)
            self._subscribe()
        for delivery in self._connection.receive(0):
            self._inbox.accept(delivery)
        if self._inbox.jobs:
            self._settling = False
            self._unsubscribe()
            for delivery in self._connection.receive(0):
                self._inbox.accept(delivery)
            self._inbox.pass_on()
        self._ledger.flush()

    def _make_way(self, ran: float) -> None:
        """Let nothing wait behind the slow task that somebody else could run."""
        if self._subscribed and self._prefetch + len(self._sources) > 2:
            self._unsubscribe()
            for delivery in self._connection.receive(0):
                self._inbox.accept(delivery)
        if self._inbox.jobs and (ran >= PATIENCE_SECONDS or self._leaving() or self._another_is_idle()):
            self._inbox.give_back()
            self._ledger.flush()

    def _another_is_idle(self) -> bool:
        return any(slot.state == IDLE for slot in self._shared.slots if slot is not self._slot)

    def _lease(self, job: Job) -> None:
        """The heartbeats keep the run from now on: its message is acked, so that no time-out of the broker matters."""
        self._unsubscribe()
        self._inbox.give_back()
        job.leased = True
        job.message.outstanding -= 1
        if job.message.outstanding == 0:
            self._ledger.ack([job.message])

    def _report_logs(self, job: Job) -> None:
        dispatch = job.dispatch
        lines = [] if self._log is None else self._log.take(dispatch.run_id)
        if lines:
            self._ledger.add(dispatch.partition, Report(messages.LOGS, dispatch.run_id, dispatch.epoch, {"l": lines}), None)

    def _report_progress(self, job: Job) -> None:
        said, self._executor.last_progress = self._executor.last_progress, None
        if said is not None:
            body = {"p": said[0], "m": said[1]}
            dispatch = job.dispatch
            self._ledger.add(dispatch.partition, Report(messages.PROGRESS, dispatch.run_id, dispatch.epoch, body), None)


def prepare_standard_streams() -> None:
    """Give the child a standard input that is nobody's terminal."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  it lives as long as the process
