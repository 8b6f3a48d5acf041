"""The supervisor: forks the children and the link, replaces what dies, enforces limits, stops the worker.

It has one thread and no connection to anything, so that it can fork at any time. Nothing of a task passes through it. It
learns what children do from the shared memory, and tells the link how they died.

A child is killed for what one entry of its slot did (a time limit, a cancel). It may finish that entry and begin another in the
moment before the signal arrives; so the reason is tied to the entry, and another that is hit is given back uncharged.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from aiki import ids, logs, vitals
from aiki.broker.base import Broker
from aiki.broker.signed import SignedBroker
from aiki.vitals import Vitals
from aiki.worker import notices
from aiki.worker.child import Child
from aiki.worker.gate import AGAIN_SECONDS
from aiki.worker.health import Health
from aiki.worker.identity import Identity, prepare_standard_streams
from aiki.worker.keys import WorkerRing
from aiki.worker.link import Link
from aiki.worker.notices import LeftRun, Lines, Notice
from aiki.worker.options import EXIT_COLD, EXIT_WARM, Options
from aiki.worker.process import Death, OomWatch, die_with_parent, heed_not, name_death, set_title
from aiki.worker.registry import Registry
from aiki.worker.slots import Shared, Slot
from aiki.worker.strays import Mark, Strays, Undertaker, kill_trees

_log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.1
CANCEL_GRACE_SECONDS: Final = 10.0
FIRST_BACKOFF: Final = 0.1
MAX_BACKOFF: Final = 30.0
YOUNG_SECONDS: Final = 1.0
LINK_STOP_SECONDS: Final = 8.0
OOM_REFRESH_SECONDS: Final = 10.0

STRAY_SECONDS: Final = 2.0
"""How long the end waits for processes that tasks have left and that are killed."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(slots=True, eq=False)
class _Place:
    """A slot and who sits in it. `kill` is (reason, entry index) once it was killed; `cancel` is (entry index, deadline)."""

    slot: Slot
    wake: int
    pid: int = 0
    mark: Mark | None = None
    born: float = 0.0
    kill: tuple[str, int] | None = None
    cancel: tuple[int, float] | None = None
    failures: int = 0
    start_at: float = 0.0


class Supervisor:
    """See the module.

    :param page: the page that the worker's health is written to.
    """

    def __init__(self, options: Options, registry: Registry, broker: Broker, page: Vitals | None = None) -> None:
        self._options = options
        self._registry = registry
        self._broker = broker
        self.worker = ids.new_id().hex
        self._shared = Shared(options.concurrency, len(options.queues))
        self._places = [_Place(slot, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)) for slot in self._shared.slots]
        self._page = Vitals("worker", seen=False) if page is None else page
        self._health = Health(self._page, self._places)
        self._link_pid = 0
        self._link: Lines | None = None
        self._link_at = 0.0
        self._link_failures = 0
        self._link_born = 0.0
        self._notices: dict[int, Notice] = {}
        self._notice_number = 0
        self._asked = 0
        """How often it was asked to stop; 2 and more is cold."""
        self._warm = self._cold = False
        self._drained_by = float("inf")
        """Monotonic seconds: when a warm stop becomes a cold one."""
        self._oom = OomWatch()
        self._next_oom = 0.0
        self._make_ring()  # a key that cannot be read is told at once
        self._wakeup, self._wakeup_write = socket.socketpair()

    # ------------------------------------------------------------ life
    def run(self) -> int:
        """Work until the worker is stopped; returns the exit code."""
        self._install_signals()
        self._strays = Strays(self.worker, os.getpid())
        for place in self._places:
            place.slot.reset()
        while not (self._stopping and not any(place.pid for place in self._places)):
            self._start_missing()
            self._wait(TICK_SECONDS)
            self._once()
        self._end_strays()
        self._stop_link()
        return EXIT_COLD if self._cold else EXIT_WARM

    @property
    def _stopping(self) -> bool:
        return self._warm or self._cold

    def _once(self) -> None:
        self._reap()
        self._kill_strays()
        self._read_link()
        self._health.look(link=bool(self._link_pid))
        if self._asked and not self._stopping:
            self._stop_warm()
        if self._warm and not self._cold and time.monotonic() >= self._drained_by:
            _log.warning("not done after the drain timeout of %g s", self._options.drain_timeout)
            self._stop_cold()
        if self._asked > 1 and not self._cold:
            self._stop_cold()
        for place in self._places:
            if place.pid:
                self._enforce(place)
        if time.monotonic() >= self._next_oom:
            self._next_oom = time.monotonic() + OOM_REFRESH_SECONDS
            self._oom.risen()  # an old kill elsewhere on the host must not explain a new death here

    def _install_signals(self) -> None:
        for end in (self._wakeup, self._wakeup_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGQUIT, self._on_stop)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup the end of a terminal is not to be heeded
            signal.signal(signal.SIGHUP, self._on_stop)
        signal.signal(signal.SIGCHLD, heed_not)

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        self._asked += 2 if number == signal.SIGQUIT else 1

    def _wait(self, seconds: float) -> None:
        reading: list[Any] = [self._wakeup]
        writing: list[Any] = []
        if self._link is not None and not self._link.closed:
            reading.append(self._link)
            if self._link.wants_write:
                writing.append(self._link)
        select.select(reading, writing, [], seconds)
        try:
            while self._wakeup.recv(4096):
                pass
        except BlockingIOError:
            pass

    # ------------------------------------------------------------ stopping
    def _stop_warm(self) -> None:
        _log.info("stopping: what runs is finished, the rest given back (once more: stop at once)")
        self._warm = True
        if self._options.drain_timeout is not None:
            self._drained_by = time.monotonic() + self._options.drain_timeout
        self._drain()

    def _drain(self) -> None:
        self._shared.drain()
        self._page.put(vitals.DRAINING, 1)
        for place in self._places:
            os.eventfd_write(place.wake, 1)
        if self._link is not None:
            self._link.send("draining")

    def _stop_cold(self) -> None:
        _log.warning("stopping at once: what runs is killed and given back")
        self._cold = True
        self._drain()
        for place in self._places:
            if place.pid:
                place.kill = (notices.COLD, -1)
                kill_trees([place.pid])

    def _end_strays(self) -> None:
        """All children are gone: what they have started goes, too."""
        deadline = time.monotonic() + STRAY_SECONDS
        while self._strays.end(self._own_processes()) and time.monotonic() < deadline:
            self._wait(TICK_SECONDS)
            self._reap()

    def _stop_link(self) -> None:
        """End the link last: it reports the runs that dead children held, and sends the bye."""
        deadline = time.monotonic() + LINK_STOP_SECONDS
        if self._link is not None:
            self._link.send("stop")
        while self._link_pid and time.monotonic() < deadline:
            self._wait(TICK_SECONDS)
            self._reap()
            self._read_link()
        if self._link_pid:
            os.kill(self._link_pid, signal.SIGKILL)
            os.waitpid(self._link_pid, 0)
        if self._notices:
            _log.error(
                "%d death notices were not delivered; the orchestrator will notice that the worker is gone", len(self._notices)
            )
        _log.info("stopped")

    # ------------------------------------------------------------ forking
    def _start_missing(self) -> None:
        now = time.monotonic()
        if not self._link_pid and now >= self._link_at:
            self._start_link()
        if self._stopping:
            return
        for place in self._places:
            if not place.pid and now >= place.start_at:
                self._start_child(place)

    def _start_child(self, place: _Place) -> None:
        mark = Mark(self.worker, place.slot.number, place.slot.incarnation)
        identity = Identity(self.worker, place.slot.number, place.slot.incarnation, place.wake, mark)

        def main() -> int:
            mark.put_on()
            prepare_standard_streams()
            logs.identify(child=identity.slot)
            broker = SignedBroker(self._broker, self._make_ring())
            return Child(identity, self._registry, self._options, self._shared, broker).run()

        place.kill = place.cancel = None
        place.mark = mark
        place.born = time.monotonic()
        place.pid = self._fork("aiki-child", main)
        place.slot.pid = place.pid

    def _start_link(self) -> None:
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

        def main() -> int:
            ours.close()
            prepare_standard_streams()
            wakes = [place.wake for place in self._places]
            lines, ring = Lines(theirs), self._make_ring()
            broker = SignedBroker(self._broker, ring)
            undertaker = Undertaker(self.worker, parent, lambda: [slot.pid for slot in self._shared.slots])
            undertaker.start()
            parts = (self._registry, self._options, self._shared, broker, lines, wakes)
            code = Link(self.worker, *parts, ring=ring, page=self._page).run()
            if lines.closed:  # the supervisor is gone, or is going: it closes its files first
                undertaker.join(LINK_STOP_SECONDS)
            return code

        self._link_born = time.monotonic()
        self._link_pid = self._fork("aiki-link", main, outlive=True)
        self._page.put(vitals.LINK, self._link_pid)
        theirs.close()
        self._link = Lines(ours)
        for notice in self._notices.values():
            self._link.send("death", notice=notice.to_wire())
        if self._stopping and not any(place.pid for place in self._places):
            self._link.send("stop")

    def _make_ring(self) -> WorkerRing:
        settings = self._registry.settings
        return WorkerRing(self._shared, settings.namespace, settings.worker_key)

    def _fork(self, title: str, main: Callable[[], int], *, outlive: bool = False) -> int:
        """Run `main` in a new process called `title`, which ends with its result; returns the process id.

        :param outlive: the kernel does not kill it as soon as this process is gone.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return pid
        code = 1
        try:
            self._leave_behind()
            if not outlive:
                die_with_parent(parent)
            set_title(title)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = main()
        except BaseException:  # noqa: BLE001  the last frame of a process: say why it ends, then end it
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _leave_behind(self) -> None:
        """In a new process: let go of the supervisor's signals and files.

        The session is the process's own: a signal to the worker's group (by a terminal, for example) does not reach tasks'
        processes.
        """
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        # A terminal's ^C and a service manager's TERM reach the whole group; only the supervisor decides what follows.
        signal.signal(signal.SIGINT, heed_not)
        signal.signal(signal.SIGTERM, heed_not)
        self._wakeup.close()
        self._wakeup_write.close()
        if self._link is not None:
            self._link.close()

    # ------------------------------------------------------------ deaths
    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._link_pid:
                self._link_died(name_death(status, self._oom.risen))
                continue
            for place in self._places:
                if place.pid == pid:
                    self._child_died(place, name_death(status, self._oom.risen))

    def _kill_strays(self) -> None:
        """Kill what dead children have left behind."""
        if self._strays.busy:
            killed = self._strays.sweep(self._own_processes())
            if killed:
                _log.warning("killed %d processes that tasks of dead children had started", len(killed))

    def _own_processes(self) -> list[int]:
        return [self._link_pid, *(place.pid for place in self._places)]

    def _link_died(self, death: Death) -> None:
        pid, self._link_pid = self._link_pid, 0
        self._page.put(vitals.LINK, 0)
        self._page.put(vitals.SESSION, 0)
        self._page.tell(vitals.BROKER, f"its link died: {death}")
        if self._link is not None:
            self._read_link()
            self._link.close()
            self._link = None
        if self._stopping and death == Death(None, 0):
            return
        lived = time.monotonic() - self._link_born
        self._link_failures = 0 if lived > YOUNG_SECONDS * 5 else self._link_failures + 1
        delay = _backoff(self._link_failures)
        self._link_at = time.monotonic() + delay
        _log.error("the link (pid %d) died: %s; another is started in %.1f s", pid, death, delay)

    def _child_died(self, place: _Place, death: Death) -> None:
        slot, pid = place.slot, place.pid
        incarnation, held = slot.held()
        place.pid = 0
        if place.mark is not None:
            self._strays.child_died(pid, place.mark)
        left = any(item.executing for item in held)
        if left or death != Death(None, 0):
            self._log_death(place, pid, death)
        if held:
            self._notice(place, pid, incarnation, death)
        hasty = not slot.ready or (slot.tail == 0 and time.monotonic() - place.born < YOUNG_SECONDS)
        place.failures = place.failures + 1 if hasty and death != Death(None, 0) else 0
        place.start_at = time.monotonic() + _backoff(place.failures)
        slot.reset()  # after the notice: the link finds what was held in one of the two

    def _log_death(self, place: _Place, pid: int, death: Death) -> None:
        latest = place.slot.latest()
        doing = "it was executing nothing"
        if latest is not None and latest.executing:
            name = self._registry.names[latest.entry.definition]
            doing = f"it was executing run {ids.to_text(latest.entry.run)} of {name}, attempt {latest.entry.attempt}"
        why = f" ({place.kill[0]})" if place.kill else ""
        _log.error("child %d (pid %d) died: %s%s; %s", place.slot.number, pid, death, why, doing)

    def _notice(self, place: _Place, pid: int, incarnation: int, death: Death) -> None:
        now = time.monotonic_ns()
        # While the worker drains, the platform kills what is left after its grace period: nothing that the run has done.
        reason = notices.COLD if self._stopping and death.signal == "SIGKILL" and not death.oom else notices.CRASH
        runs = []
        # A workflow has several entries, one after the other, where its steps have limits of their own: the last one counts.
        last = {(item.entry.run, item.entry.epoch): item for item in place.slot.held()[1]}
        for item in last.values():
            entry = item.entry
            if item.executing and place.kill is not None:
                # Killed for another entry, or for none: this one did nothing.
                reason = place.kill[0] if place.kill[1] == item.at else notices.COLD
            ms = max(0, now - entry.began) // 1_000_000
            where = (entry.run.hex(), entry.epoch, entry.partition)
            runs.append(LeftRun(*where, item.executing, ms, entry.hard, entry.retry_delay, entry.attempt, entry.ordinal))
        self._notice_number += 1
        executor = f"{self.worker}/{place.slot.number}.{incarnation}"
        notice = Notice(self._notice_number, executor, pid, reason, death.signal, death.exit, death.oom, runs)
        self._notices[notice.number] = notice
        if self._link is not None:
            self._link.send("death", notice=notice.to_wire())

    # ------------------------------------------------------------ limits and cancels
    def _enforce(self, place: _Place) -> None:
        latest = place.slot.latest()
        if latest is None or not latest.executing or place.kill is not None:
            return
        entry, slot = latest.entry, place.slot
        ran = (time.monotonic_ns() - entry.began) / 1e9
        if entry.hard and ran >= entry.hard:
            self._kill(place, notices.TIME_LIMIT, latest.at)
        elif entry.soft and ran >= self._soft_due(slot, latest.at, entry.soft):
            slot.soft_limit(latest.at)
            os.kill(place.pid, signal.SIGUSR1)
        if place.cancel is not None:
            index, deadline = place.cancel
            if index != latest.at:
                place.cancel = None
            elif time.monotonic() >= deadline:
                self._kill(place, notices.CANCELLED, index)

    @staticmethod
    def _soft_due(slot: Slot, index: int, soft: float) -> float:
        """Seconds after which the soft limit of the entry is to be signalled, perhaps once more."""
        return soft + (AGAIN_SECONDS * slot.softened_times if slot.softened == index else 0.0)

    def _kill(self, place: _Place, reason: str, index: int) -> None:
        if place.kill is None:
            place.kill = (reason, index)
            kill_trees([place.pid])

    def _read_link(self) -> None:
        if self._link is None:
            return
        for line in self._link.receive():
            if line["kind"] == "confirmed":
                self._notices.pop(line["number"], None)
            elif line["kind"] == "interrupt":
                self._interrupt(self._places[line["slot"]], line["incarnation"], line["index"], line["reason"])
            elif line["kind"] == "drain":
                self._asked = max(self._asked, 2 if line["at_once"] else 1)
        if self._link is not None:
            self._link.flush()

    def _interrupt(self, place: _Place, incarnation: int, index: int, reason: int) -> None:
        if place.pid and place.slot.incarnation == incarnation and place.kill is None:
            place.slot.interrupt(index, reason)
            place.cancel = (index, time.monotonic() + CANCEL_GRACE_SECONDS)
            os.kill(place.pid, signal.SIGUSR1)


def _backoff(failures: int) -> float:
    return min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** (failures - 1)) if failures else 0.0
