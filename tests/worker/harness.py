"""A hand-fed orchestrator and a worker process, for tests that look at what passes between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aiki import messages
from aiki.broker import CONTROL, HEARTBEAT, Broker, open_broker, reports, work
from aiki.broker.base import Delivery
from aiki.ids import new_id
from aiki.messages import Control, Dispatch, DispatchList, Heartbeat, Report, ReportList, RunKey
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
NAMESPACE = "default"


class Got(Report):
    """A report with who sent it and when it came."""

    executor: str
    at: float
    draining: bool

    @classmethod
    def of(cls, report: Report, found: ReportList) -> Got:
        got = cls(*report)
        got.executor = found.executor
        got.at = time.monotonic()
        got.draining = found.draining
        return got


class Orchestrator:
    """Answers hello with a snapshot and collects reports and heartbeats, in a thread of its own."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.reports: list[Got] = []
        self.beats: list[Heartbeat] = []
        self.snapshot: list[RunKey] = []
        self.paused: list[str] = []
        self.silent = False
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._session = broker.connect("test sender")
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    def _serve(self) -> None:
        session = self.broker.connect("test orchestrator")
        session.subscribe(HEARTBEAT, 1000)
        for partition in range(PARTITIONS):
            session.subscribe(reports(partition), 1000)
        self._ready.set()
        while not self._stop.is_set():
            taken = session.receive(0.1)
            done: list[Delivery] = []
            for delivery in taken:
                if delivery.source == HEARTBEAT:
                    beat = Heartbeat.decode(delivery.body)
                    self.beats.append(beat)
                    if beat.kind == messages.HELLO and not self.silent:
                        self._answer_hello(session, beat)
                else:
                    found = ReportList.decode(delivery.body)
                    self.reports += [Got.of(report, found) for report in found.reports]
                    done.append(delivery)
            session.ack(done)
        session.close()

    def _answer_hello(self, session: Any, beat: Heartbeat) -> None:
        fields = {"worker": beat.worker, "nonce": beat.fields["nonce"], "paused": self.paused, "number": 0}
        session.send(CONTROL, Control(NAMESPACE, messages.SNAPSHOT, self.snapshot, fields).encode())

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._session.close()

    # ------------------------------------------------------------ sending
    def send(self, message: DispatchList) -> None:
        """Publish a dispatch list and wait until the broker has it."""
        with self._lock:
            seq = self._session.send(work(message.namespace, message.queue), message.encode())
            settled: dict[int, bool] = {}

            def done() -> bool:
                self._session.receive(0.05)
                settled.update(self._session.settled())
                return seq in settled

            wait_until(done, what="the confirmation of a dispatch")
            assert settled[seq]

    def dispatch(self, *runs: Dispatch, queue: str = "default", again: bool = False) -> list[Dispatch]:
        self.send(DispatchList(NAMESPACE, queue, list(runs), again))
        return list(runs)

    def run(self, name: str, *args: Any, **options: Any) -> Dispatch:
        """Dispatch one run in a message of its own."""
        return self.dispatch(make(name, *args, **options))[0]

    def control(self, kind: str, runs: Iterable[RunKey] = (), **fields: Any) -> None:
        with self._lock:
            self._session.send(CONTROL, Control(NAMESPACE, kind, list(runs), fields).encode())
            self._session.beat()

    def depth(self, queue: str = "default") -> int:
        with self._lock:
            depth = self._session.depth(work(NAMESPACE, queue))
            return depth.ready if depth else 0

    # ------------------------------------------------------------ what came
    def of(self, run: Dispatch | str, *kinds: str) -> list[Got]:
        run_id = run if isinstance(run, str) else run.run_id
        return [item for item in list(self.reports) if item.run_id == run_id and (not kinds or item.kind in kinds)]

    def kinds(self, run: Dispatch) -> list[str]:
        return [item.kind for item in self.of(run)]

    def report(self, run: Dispatch, *kinds: str, timeout: float = 15.0) -> Got:
        """Wait for a report of the run: of one of these kinds, or one that ends its dispatch."""
        wanted = kinds or tuple(messages.ENDS_DISPATCH)
        wait_until(lambda: self.of(run, *wanted), timeout, f"{wanted} of {run.name}, which has {self.kinds(run)}")
        return self.of(run, *wanted)[0]

    def ended(self, runs: Iterable[Dispatch], timeout: float = 30.0) -> dict[str, Got]:
        """Wait until each of the runs has a report that ends its dispatch."""
        wanted = {run.run_id for run in runs}

        def all_there() -> dict[str, Got] | None:
            found = {item.run_id: item for item in list(self.reports) if item.kind in messages.ENDS_DISPATCH}
            return found if wanted <= found.keys() else None

        found = wait_until(all_there, timeout, f"{len(wanted)} runs to end")
        assert found is not None
        return {key: item for key, item in found.items() if key in wanted}

    def result(self, run: Dispatch, timeout: float = 15.0) -> Any:
        got = self.report(run, timeout=timeout)
        assert got.kind == messages.COMPLETED, got
        return json.loads(got.body["r"]) if "r" in got.body else None

    def beat(self, kind: str, condition: Callable[[Heartbeat], bool] = lambda beat: True, timeout: float = 15.0) -> Heartbeat:
        """Wait for a heartbeat that arrives after this call."""
        start = len(self.beats)

        def found() -> Heartbeat | None:
            return next((beat for beat in self.beats[start:] if beat.kind == kind and condition(beat)), None)

        beat = wait_until(found, timeout, f"a heartbeat {kind}")
        assert beat is not None
        return beat

    def beat_of(self, worker: str, kind: str) -> Heartbeat:
        """Wait for such a heartbeat of that worker, whenever it came."""
        return wait_until(lambda: next((b for b in list(self.beats) if b.worker == worker and b.kind == kind), None))


def make(name: str, *args: Any, epoch: int = 1, partition: int = 0, attempt: int = 1, **options: Any) -> Dispatch:
    """A dispatch with positional arguments (JSON data); further keywords are dispatch options."""
    return Dispatch(new_id().hex, epoch, name, "1", attempt, partition, "json", json.dumps([list(args), {}]), options)


def key(run: Dispatch) -> RunKey:
    return RunKey(run.run_id, run.epoch)


class Worker:
    """A worker process."""

    def __init__(
        self, url: str, prefix: str, log: Path, *options: str, app: str = "tests.worker.sample_app", path: Path | None = None
    ) -> None:
        folders = [str(folder) for folder in (ROOT, path) if folder is not None]
        environment = os.environ | {"AIKI_BROKER_URL": url, "AIKI_PREFIX": prefix, "PYTHONPATH": os.pathsep.join(folders)}
        self._log = log
        self._file = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from aiki.cli.worker import worker; worker()", "-A", app, "-n", "tested", *options],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
        )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def family(self) -> list[int]:
        """The process ids of children and link."""
        try:
            return [int(p) for p in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        return self.process.wait(timeout)

    def stop(self) -> None:
        """End it however it is; show its log if that is not the ordinary way."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._file.close()


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def broker_of(url: str, prefix: str) -> Broker:
    return open_broker(url, prefix=prefix)
