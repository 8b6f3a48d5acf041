"""A worker played by hand: it speaks the protocol over a real broker, one step at a time."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from aiki import messages as m
from aiki.broker import CONTROL, HEARTBEAT, Broker, Delivery, Kind, reports, work
from aiki.messages import Control, Dispatch, DispatchList, Heartbeat, Held, Report, ReportList, RunKey


class HandWorker:
    """One worker with one child, moved by the test.

    :param turn: lets the orchestrator do a turn; called while waiting.
    """

    def __init__(self, broker: Broker, turn: Callable[[], None], definitions: tuple[str, ...] = ("a",)) -> None:
        self.id = uuid.uuid4().hex
        self.executor = f"{self.id[:8]}/0.1"
        self.definitions = definitions
        self.turn = turn
        self.held: list[Held] = []
        self.controls: list[Control] = []
        self.deliveries: list[Delivery] = []
        self.session = broker.connect("hand")
        self.session.subscribe(CONTROL, 100)
        self.answering = True
        self.markers = 0
        self.fields: dict[str, object] = {}

    def hello(self, *, queue: str = "default", prefetch: int = 100) -> None:
        """Say hello, wait for the snapshot, begin to consume."""
        self.fields = {"name": "hand", "host": "h", "pid": 1, "queues": [queue], "concurrency": 1, "version": "0"}
        self.fields["definitions"] = [[name, "1", "task"] for name in self.definitions]
        self.beat(m.HELLO, **self.fields)
        self.until(lambda: any(self._ends_snapshot(control) for control in self.controls))
        self.session.subscribe(work("default", queue), prefetch)

    def _ends_snapshot(self, control: Control) -> bool:
        return control.kind == m.SNAPSHOT and control.fields["worker"] == self.id and not control.fields.get("more")

    def beat(self, kind: str = m.BEAT, **fields: object) -> None:
        self.session.send(HEARTBEAT, Heartbeat("default", kind, self.id, self.held, fields).encode())

    def poll(self) -> None:
        """Take what came, answer what is asked, and let the orchestrator do a turn."""
        for delivery in self.session.receive(0.005):
            if delivery.source.kind is Kind.CONTROL:
                control = Control.decode(delivery.body)
                self.controls.append(control)
                if control.kind == m.RESEND_HELLO:
                    self.beat(m.HELLO, **self.fields)
                elif control.kind == m.ASK and self.answering:
                    asked = set(control.runs)
                    held = [item for item in self.held if RunKey(item.run_id, item.epoch) in asked]
                    self.session.send(
                        HEARTBEAT,
                        Heartbeat("default", m.ANSWER, self.id, held, {"nonce": control.fields["nonce"]}).encode(),
                    )
            else:
                self.deliveries.append(delivery)
        self.session.settled()
        self.turn()

    def until(self, condition: Callable[[], bool], turns: int = 2000) -> None:
        for _ in range(turns):
            if condition():
                return
            self.poll()
        raise AssertionError("the condition never came true")

    def take(self) -> tuple[Delivery, DispatchList]:
        """The next dispatch message; markers on the way are reported back."""
        while True:
            self.until(lambda: bool(self.deliveries))
            delivery = self.deliveries.pop(0)
            message = DispatchList.decode(delivery.body)
            if message.marker is None:
                return delivery, message
            self.markers += 1
            self.send([Report(m.MARKER, "", message.marker, {"q": message.queue})], 0)
            self.session.ack([delivery])

    def dispatched(self) -> list[Dispatch]:
        """All runs that came so far; markers on the way are reported back, and everything is acked."""
        found: list[Dispatch] = []
        for delivery in self.deliveries:
            message = DispatchList.decode(delivery.body)
            if message.marker is not None:
                self.send([Report(m.MARKER, "", message.marker, {"q": message.queue})], 0)
            found += message.runs
        self.session.ack(self.deliveries)
        self.deliveries = []
        return found

    def report(self, dispatch: Dispatch, kind: str, executor: str | None = None, **body: object) -> None:
        item = Report(kind, dispatch.run_id, dispatch.epoch, dict(body))
        self.send([item], dispatch.partition, executor)

    def send(self, items: list[Report], partition: int, executor: str | None = None, *, draining: bool = False) -> None:
        message = ReportList("default", self.id, executor or self.executor, items, draining=draining)
        self.session.send(reports(partition), message.encode())

    def close(self) -> None:
        self.session.close()
