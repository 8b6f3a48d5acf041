"""The link: the worker's connection to the orchestrators, in a process that never runs user code.

It sends the hello and receives the snapshot of revocations, names the held runs in each heartbeat, answers ownership
inquiries, reports started runs and dead children, and passes cancels on to the supervisor. It shares no interpreter with user
code, so no task can keep it from doing this.

It reads the slots first and the supervisor's notices second: a dead child's runs leave the slot only after the notice of them
has been sent, so a held run is never missing from both.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Final

import aiki
from aiki import logs, messages, vitals
from aiki.broker.base import CONTROL, HEARTBEAT, Broker, Delivery, reports
from aiki.errors import MessageError
from aiki.messages import Control, Heartbeat, Held, Report, ReportList, RunKey, definitions_digest
from aiki.vitals import Vitals
from aiki.worker.connection import Connection
from aiki.worker.deaths import death_reports
from aiki.worker.keys import WorkerRing
from aiki.worker.notices import Lines, Notice
from aiki.worker.options import Options
from aiki.worker.process import rss_kib
from aiki.worker.registry import Registry
from aiki.worker.slots import ABORT, CANCEL, Shared

_log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.1
HELLO_SECONDS: Final = 2.0
COMPLAIN_SECONDS: Final = 30.0
STARTED_NS: Final = 250_000_000
STOP_SECONDS: Final = 5.0
BARRIER_SECONDS: Final = 0.001
DEATHS: Final = 200
"""Reports in one message about a dead child: each contains the same message of up to some kB."""
_CONTROL_PREFETCH: Final = 1000
ASK_SECONDS: Final = 10.0
"""Seconds between two beats that ask whether an orchestrator receives them."""
UNHEARD_SECONDS: Final = 30.0
"""Seconds without an answer after which it sends a hello again: orchestrators of an older release answer nothing else."""
TURN_SECONDS: Final = 60.0
"""Seconds between two questions which revocations are still in use."""


@dataclass(frozen=True, slots=True)
class _Started:
    slot: int
    incarnation: int
    index: int


class Link:
    """See the module.

    :param wakes: an eventfd for each child, to have it look at the shared memory.
    :param page: the page that its health is written to; None: none.
    """

    def __init__(
        self,
        worker: str,
        registry: Registry,
        options: Options,
        shared: Shared,
        broker: Broker,
        supervisor: Lines,
        wakes: list[int],
        clock: Callable[[], float] = time.monotonic,
        ring: WorkerRing | None = None,
        page: Vitals | None = None,
    ) -> None:
        self._worker = worker
        self._registry = registry
        self._namespace = registry.settings.namespace
        self._options = options
        self._shared = shared
        self._supervisor = supervisor
        self._wakes = wakes
        self._clock = clock
        self._ring = WorkerRing(shared, self._namespace) if ring is None else ring
        from aiki.sealing import Opener  # only in this process: children do without cryptography's megabytes

        self._opener = Opener()
        self._connection = Connection(broker, f"aiki-worker {options.name}", self._on_lost, clock)
        self._listening = False
        self._hellos: dict[int, int] = {}
        """Unanswered hellos of this session: nonce to monotonic nanoseconds."""
        self._nonce = time.monotonic_ns() // 1000
        """Rises with each hello of this worker, also of a link that takes this one's place."""
        self._next_hello = 0.0
        self._next_beat = 0.0
        self._next_complaint = 0.0
        self._next_turn = 0.0
        self._turned = 0
        """The newest nonce when the revocations were turned: the answer to a later one completes that."""
        self._notices: dict[int, Notice] = {}
        self._open_reports: dict[int, int] = {}
        """Notice number to how many of its report messages are unconfirmed."""
        self._started: dict[int, _Started] = {}
        self._telling = False
        """Whether heartbeats announce that the worker stops."""
        self._deadline: float | None = None
        self._pauses = -1
        """The number of the newest word on which queues are paused."""
        self._digest = definitions_digest(registry.triples())
        self._page = page
        self._heard = 0.0
        self._next_ask = float("inf")
        """Infinite while no orchestrator has announced that it answers."""

    # ------------------------------------------------------------ life
    def run(self) -> int:
        """Work until the supervisor sends `stop`; returns the exit code."""
        while not self._may_stop():
            self.turn()
        if self._deadline is not None and self._notices:
            _log.error("leaving with %d death notices that nobody has confirmed", len(self._notices))
        if self._listening and not self._supervisor.closed:  # without a supervisor nobody knows how its children ended
            self._tell(messages.BYE, [], {})
        self._connection.close()
        return 0

    def _may_stop(self) -> bool:
        if self._supervisor.closed:
            return True
        if self._deadline is None:
            return False
        return not (self._notices or self._connection.unconfirmed) or self._clock() >= self._deadline

    def turn(self) -> None:
        """One turn: connect, receive, send."""
        connection = self._connection
        connected = connection.connect()
        if self._page is not None:
            self._say_how_it_is(self._page)
        if not connected:
            select.select([self._supervisor], [], [], min(connection.retry_in(), HELLO_SECONDS))
            self._read_supervisor()
            return
        if not self._listening:
            self._listen()
        for delivery in connection.receive(TICK_SECONDS, self._supervisor.fileno()):
            self._hear(delivery)
        self._read_supervisor()
        self._settle()
        self._report_started()
        now = self._clock()
        if self._listening and self._shared.revoked.should_turn:
            self._turn_revocations(now)
        if self._listening and self._hello_due(now):
            self._say_hello(now)
        elif self._listening and now >= self._next_beat:
            self._beat(now)
        if self._telling and self._next_beat > 0 and not self._connection.unconfirmed:
            self._telling = False
            _log.info("it is on record that this worker stops: what is killed from now on is not charged")

    def _say_how_it_is(self, page: Vitals) -> None:
        page.now(vitals.LINK_TURNED)
        page.since(vitals.SESSION, holds=self._connection.session is not None)
        page.tell(vitals.BROKER, logs.masked(self._connection.why))

    def _on_lost(self) -> None:
        self._listening = False
        self._next_ask = float("inf")
        self._hellos.clear()
        self._shared.go = 0  # children that come new wait; those that are subscribed go on

    # ------------------------------------------------------------ hello and snapshot
    def _listen(self) -> None:
        if self._connection.subscribe(CONTROL, _CONTROL_PREFETCH):
            self._listening = True
            self._next_complaint = self._clock() + HELLO_SECONDS
            self._say_hello(self._clock())

    def _snapshot_wanted(self) -> bool:
        go = self._shared.go
        return go == 0 or self._shared.revoked.turning or any(slot.want >= go for slot in self._shared.slots)

    def _turn_revocations(self, now: float) -> None:
        """Ask which of very many revocations are of use: the others are forgotten with the next turn."""
        if now >= self._next_turn and not self._hellos and self._shared.may_turn:
            self._next_turn = now + TURN_SECONDS
            self._turned = self._nonce
            self._shared.revoked.turn()

    def _hello_due(self, now: float) -> bool:
        if self._hellos:
            return now >= self._next_hello
        return self._snapshot_wanted() or (self._next_ask < float("inf") and now - self._heard > UNHEARD_SECONDS)

    def _say_hello(self, now: float) -> None:
        if self._hellos and now >= self._next_complaint:
            _log.warning(
                "no orchestrator answers; children that have no snapshot of the revocations wait for it (if orchestrators run, "
                "see in their log whether this worker needs AIKI_WORKER_KEY)"
            )
            self._next_complaint = now + COMPLAIN_SECONDS
        self._nonce += 1
        self._hellos[self._nonce] = time.monotonic_ns()
        self._next_hello = now + HELLO_SECONDS
        self._next_beat = now + (0.0 if self._shared.draining else messages.HEARTBEAT_SECONDS)
        fields = {
            "name": self._options.name,
            "host": socket.gethostname(),
            "pid": os.getppid(),
            "queues": list(self._options.queues),
            "concurrency": self._options.concurrency,
            "definitions": self._registry.triples(),
            "version": aiki.__version__,
            "can": [messages.CAN_FETCH, messages.CAN_READ_FAILURES],
            "nonce": self._nonce,
            "pk": self._opener.public,
            "kid": self._ring.state,
        }
        self._tell(messages.HELLO, self.held(), fields)

    def _take_keys(self, control: Control, *, proven: bool) -> None:
        if (
            control.fields.get("worker") == self._worker
            and self._ring.take(control.fields, proven, self._opener)
            and self._hellos
        ):
            self._say_hello(self._clock())  # the one before was not signed with it

    def _take_snapshot(self, control: Control) -> None:
        if control.fields.get("worker") != self._worker or not self._hellos:
            return
        self._pause_queues(control)
        self._revoke(control.runs)
        # What is revoked and runs here all the same was cancelled or replaced while this worker did not hear it.
        self._interrupt(control.runs, CANCEL)
        if control.fields.get("more"):
            self._next_hello = self._clock() + HELLO_SECONDS  # it is being answered: asked again, all would come once more
            return
        # Without a nonce it answers the oldest hello: the safe guess, for GO tells children from when on nothing is missed.
        nonce = control.fields.get("nonce", next(iter(self._hellos)))
        if nonce not in self._hellos:
            return
        asked = self._hellos[nonce]
        if self._shared.revoked.turning and nonce > self._turned:
            self._shared.revoked.completed()
        if isinstance(control.fields.get("now"), int):
            self._shared.clock_offset = control.fields["now"] - time.monotonic_ns() // 1000
        self._hellos = {number: when for number, when in self._hellos.items() if when > asked}
        if self._shared.go == 0:
            _log.info("the orchestrator knows this worker")
        self._note_heard(answers=bool(control.fields.get("hears")))
        self._shared.go = max(asked, self._shared.go)
        self._wake_children()

    def _note_heard(self, *, answers: bool) -> None:
        """An orchestrator has answered this worker; `answers`: one that does so whenever it is asked."""
        self._heard = now = self._clock()
        if self._page is None:
            return
        self._page.now(vitals.HEARD)
        self._page.put(vitals.ANSWERS, int(answers))
        self._next_ask = now + ASK_SECONDS if answers else float("inf")

    def _wake_children(self) -> None:
        for wake in self._wakes:
            os.eventfd_write(wake, 1)

    # ------------------------------------------------------------ control messages
    def _hear(self, delivery: Delivery) -> None:
        try:
            control = Control.decode(delivery.body)
        except MessageError as error:
            _log.error("a control message is passed over: %s", error)
            return
        try:
            self._heed(control, delivery)
        except Exception:  # noqa: BLE001  one message must not end the process that speaks for all children
            _log.exception("a control message of kind %s is passed over", control.kind)

    def _heed(self, control: Control, delivery: Delivery) -> None:
        if control.namespace != self._namespace:
            return
        if control.kind == messages.KEYS:
            self._take_keys(control, proven=delivery.believed and bool(delivery.namespace))
            return
        if control.kind == messages.SNAPSHOT:
            self._take_snapshot(control)
        elif control.kind == messages.ASK:
            self._answer(control)
        elif control.kind == messages.REVOKE:
            self._revoke(control.runs)
        elif control.kind in (messages.CANCEL, messages.ABORT):
            self._revoke(control.runs)
            self._interrupt(control.runs, CANCEL if control.kind == messages.CANCEL else ABORT)
        elif control.kind in (messages.CANCEL_SOON, messages.PAUSE_SOON):
            self._request(control.runs, control.kind)
        elif control.kind == messages.RESEND_HELLO:
            self._say_hello(self._clock())
        elif control.kind == messages.DRAIN and control.fields.get("worker") == self._worker:
            self._supervisor.send("drain", at_once=bool(control.fields.get("at_once")))
        elif control.kind == messages.QUEUES:
            self._pause_queues(control)
        elif control.kind == messages.HEARD and messages.called(self._worker) in control.fields.get("workers", ()):
            self._note_heard(answers=True)

    def _pause_queues(self, control: Control) -> None:
        """Take over the paused queues, unless a newer list has been received already."""
        number, names = control.fields.get("number"), control.fields.get("paused")
        if not isinstance(number, int) or not isinstance(names, list) or number < self._pauses:
            return
        self._pauses = number
        paused = [queue in names for queue in self._options.queues]
        if paused != self._shared.paused:
            self._shared.pause(paused)
            self._wake_children()
            self._next_beat = 0.0  # whoever paused it waits to hear that it is in effect
            there = [queue for queue, is_ in zip(self._options.queues, paused, strict=True) if is_]
            _log.info("paused queues: %s", ", ".join(there) or "none")

    def _revoke(self, runs: list[RunKey]) -> bool:
        """Have the children know what must not begin; False if there was no room for all."""
        room = True
        for run_id, epoch in runs:
            try:
                room = self._shared.revoked.add(bytes.fromhex(run_id), epoch) and room
            except (ValueError, TypeError, struct.error) as error:
                _log.error("a revocation that cannot be read: %s", error)
        if not room and self._clock() >= self._next_complaint:
            self._next_complaint = self._clock() + COMPLAIN_SECONDS
            _log.error(
                "there are %d revoked runs in this worker's memory and there is no room for more", len(self._shared.revoked)
            )
        return room

    def _answer(self, control: Control) -> None:
        if not self._revoke(control.runs):
            return  # an answer would promise never to begin them
        time.sleep(BARRIER_SECONDS)  # see slots.py: what is read now is newer than what was written
        asked = set(control.runs)
        held = [item for item in self.held() if (item.run_id, item.epoch) in asked]
        self._tell(messages.ANSWER, held, {"nonce": control.fields.get("nonce")})

    def _interrupt(self, runs: list[RunKey], reason: int) -> None:
        if not runs:
            return
        time.sleep(BARRIER_SECONDS)
        wanted = set(runs)
        for slot in self._shared.slots:
            incarnation = slot.incarnation
            latest = slot.latest()
            if latest is not None and (latest.entry.run.hex(), latest.entry.epoch) in wanted:
                self._supervisor.send("interrupt", slot=slot.number, incarnation=incarnation, index=latest.at, reason=reason)

    def _request(self, runs: list[RunKey], kind: str) -> None:
        """Tell workflows that run here what they are to do at their next durable point."""
        wanted = set(runs)
        for slot in self._shared.slots:
            latest = slot.latest()
            if latest is None or (latest.entry.run.hex(), latest.entry.epoch) not in wanted:
                continue
            # While a step with limits of its own runs, the workflow's entry is the one before it.
            index = latest.at if latest.entry.ordinal < 0 else latest.at - 1
            if kind == messages.CANCEL_SOON:
                slot.cancel_soon = index
            else:
                slot.pause_soon = index

    # ------------------------------------------------------------ heartbeats
    def held(self) -> list[Held]:
        """All that the worker holds: its children's slots, and what dead children left until that is reported."""
        now = time.monotonic_ns()
        out = []
        for slot in self._shared.slots:
            incarnation, items = slot.held()
            executor = f"{self._worker}/{slot.number}.{incarnation}"
            for item in items:
                entry = item.entry
                out.append(Held(entry.run.hex(), entry.epoch, executor, max(0, now - entry.began) // 1_000_000))
        self._read_supervisor()
        for notice in self._notices.values():
            out += [Held(run.run_id, run.epoch, notice.executor, run.ms) for run in notice.runs]
        return out

    def _beat(self, now: float) -> None:
        self._next_beat = now + messages.HEARTBEAT_SECONDS
        fields = {
            "children": self._children(),
            "digest": self._digest,
            "draining": int(self._shared.draining),
            "rss": rss_kib(os.getppid()) + rss_kib(os.getpid()),
            "kid": self._ring.state,
            "paused": [queue for queue, paused in zip(self._options.queues, self._shared.paused, strict=True) if paused],
        }
        if now >= self._next_ask:
            self._next_ask = now + ASK_SECONDS
            fields["ask"] = 1
        self._tell(messages.BEAT, self.held(), fields)

    def _children(self) -> list[dict[str, Any]]:
        now = time.monotonic_ns()
        out = []
        for slot in self._shared.slots:
            pid = slot.pid
            if not pid:
                continue
            row: dict[str, Any] = {"slot": slot.number, "pid": pid, "run": None, "name": None, "ms": 0, "rss": rss_kib(pid)}
            latest = slot.latest()
            if latest is not None and latest.executing:
                row["run"] = latest.entry.run.hex()
                row["name"] = self._registry.names[latest.entry.definition]
                row["ms"] = max(0, now - latest.entry.began) // 1_000_000
            out.append(row)
        return out

    def _tell(self, kind: str, held: list[Held], fields: dict[str, Any]) -> None:
        if self._shared.clock_offset:
            fields["at"] = self._shared.clock_offset + time.monotonic_ns() // 1000
        self._connection.tell(HEARTBEAT, Heartbeat(self._namespace, kind, self._worker, held, fields).encode())

    # ------------------------------------------------------------ reports
    def _report_started(self) -> None:
        now = time.monotonic_ns()
        for slot in self._shared.slots:
            incarnation = slot.incarnation
            latest = slot.latest()
            if latest is None or not latest.executing or now - latest.entry.began < STARTED_NS:
                continue
            mark = _Started(slot.number, incarnation, latest.at)
            if self._started.get(slot.number) == mark or slot.incarnation != incarnation:
                continue
            self._started[slot.number] = mark
            entry = latest.entry
            body = {"ms": (now - entry.began) // 1_000_000}
            self._post(
                f"{self._worker}/{slot.number}.{incarnation}",
                entry.partition,
                [Report(messages.STARTED, entry.run.hex(), entry.epoch, body)],
                mark,
            )

    def _post(self, executor: str, partition: int, found: list[Report], token: object) -> None:
        body = ReportList(self._namespace, self._worker, executor, found, draining=self._shared.draining).encode()
        self._connection.post(reports(partition), body, token)

    def _settle(self) -> None:
        for sent in self._connection.settle():
            token = sent.token
            if isinstance(token, _Started):
                slot = self._shared.slots[token.slot]
                if slot.incarnation == token.incarnation:
                    slot.leased = token.index
            elif isinstance(token, int):
                self._open_reports[token] -= 1
                if self._open_reports[token] == 0:
                    del self._open_reports[token], self._notices[token]
                    self._supervisor.send("confirmed", number=token)

    # ------------------------------------------------------------ the supervisor
    def _read_supervisor(self) -> None:
        for line in self._supervisor.receive():
            if line["kind"] == "death":
                self._report_death(Notice.from_wire(line["notice"]))
            elif line["kind"] == "draining":
                # Known before the platform kills: what is killed then is not charged. Orchestrators that are stopped as well
                # do not hear the beat, and read the reports when they are back.
                self._next_beat = 0.0
                self._started.clear()
                self._telling = True
            elif line["kind"] == "stop":
                self._deadline = self._clock() + STOP_SECONDS
        self._supervisor.flush()

    def _report_death(self, notice: Notice) -> None:
        if notice.number in self._notices:
            return
        self._notices[notice.number] = notice
        by_partition: dict[int, list[Report]] = {}
        for run in notice.runs:
            by_partition.setdefault(run.partition, []).extend(death_reports(notice, run))
        parts = [
            (partition, found[at : at + DEATHS]) for partition, found in by_partition.items() for at in _every(DEATHS, found)
        ]
        self._open_reports[notice.number] = len(parts)
        for partition, found in parts:
            self._post(notice.executor, partition, found, notice.number)


def _every(count: int, items: Sized) -> range:
    return range(0, len(items), count)
