"""A whole Aiki of real processes on real servers: what system tests start, kill and look at."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from aiki import Aiki, ids
from aiki.settings import Settings
from aiki.states import State
from aiki.storage import Store, open_store, upgrade
from tests.waiting import wait_until

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class Process:
    """One of Aiki's commands, run as a user would."""

    def __init__(self, name: str, arguments: Sequence[str], env: dict[str, str], folder: Path) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        self._log = self.log_path.open("ab")
        # A session of its own: a test may kill the whole process group.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aiki.cli.main", *arguments],
            env=env,
            cwd=HERE,
            stdout=self._log,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill_group(self) -> None:
        """kill -9 of the process and all it has started."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(10)

    def kill9(self) -> None:
        """kill -9 of the process alone."""
        self.process.kill()
        self.process.wait(10)

    def kill_all(self) -> None:
        """kill -9 of the process and all below it, at once and in no order, as a platform does it that ends a cgroup."""
        try:
            family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for process in random.sample(family, len(family)):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(10)

    def stop(self, timeout: float = 20.0) -> int:
        """TERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.process.poll() is None:
            try:
                self.stop(10)
            except subprocess.TimeoutExpired:
                self.kill_group()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._log.close()


class Worker(Process):
    """An `aiki-worker`."""

    def children(self) -> list[psutil.Process]:
        """The processes that execute tasks (the link is not among them)."""
        return self._below("aiki-child")

    def link(self) -> psutil.Process:
        """The process that heartbeats and obeys."""
        return self._below("aiki-link")[0]

    def _below(self, title: str) -> list[psutil.Process]:
        try:
            below = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []
        found = []
        for process in below:
            try:
                if Path(f"/proc/{process.pid}/comm").read_text().strip() == title:
                    found.append(process)
            except OSError:
                continue
        return found


class Mark(NamedTuple):
    """A line of the ledger."""

    kind: str
    what: str
    pid: int
    at: float


class Marks:
    """Reads a ledger as it grows. To be polled while others work: it reads only what is new."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._read: dict[Path, int] = {}

    def new(self) -> Iterator[Mark]:
        """What was written since the last call, file by file."""
        for path in self._ledger.iterdir():
            at = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(at)
                text = file.read()
            whole = text.rfind(b"\n") + 1
            self._read[path] = at + whole
            for line in text[:whole].decode().splitlines():
                kind, what, pid, when = line.split(" ")
                yield Mark(kind, what, int(pid), float(when))


class RecordedAttempt(NamedTuple):
    """A row of the attempts, as far as tests look at it."""

    run_id: str
    number: int
    epoch: int
    outcome: str
    error_message: str
    signal: str | None
    exit_code: int | None


class System:
    """Servers, orchestrators and workers on one database and one broker.

    :param database_url, broker_url: where they meet. The database must exist.
    """

    def __init__(self, folder: Path, database_url: str, broker_url: str, **settings: object) -> None:
        self.folder = folder
        self.ledger = folder / "ledger"
        self.ledger.mkdir()
        self.settings_given = {
            "AIKI_DATABASE_URL": database_url,
            "AIKI_BROKER_URL": broker_url,
            "AIKI_PREFIX": f"t{uuid.uuid4().hex[:8]}",
            **{f"AIKI_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AIKI_")},
            **self.settings_given,
            "LEDGER": str(self.ledger),
            "PYTHONPATH": f"{ROOT}:{HERE}",
        }
        upgrade(database_url)
        self.settings = Settings.load(self.settings_given)
        self.store: Store = open_store(self.settings)
        self.processes: list[Process] = []
        self._apps: list[Aiki] = []
        self._count = 0

    # ------------------------------------------------------------ processes
    def start(self, kind: str, *arguments: str, **env: str) -> Process:
        self._count += 1
        made = (Worker if kind == "worker" else Process)(
            f"{kind}-{self._count}", [kind, *arguments], {**self.env, **env}, self.folder
        )
        self.processes.append(made)
        return made

    def orchestrator(self) -> Process:
        return self.start("orchestrator")

    def worker(self, *arguments: str, concurrency: int = 2, app: str = "shop", ready: bool = True, **env: str) -> Worker:
        """A worker; waits until it is known to an orchestrator."""
        made = self.start("worker", "-A", app, "-c", str(concurrency), *arguments, **env)
        assert isinstance(made, Worker)
        if ready:
            wait_until(lambda: "orchestrator knows this worker" in made.log, 60, f"{made.name} to be known:\n{made.log}")
        return made

    def server(self, port: int, *arguments: str) -> Process:
        return self.start("server", "--bind", f"127.0.0.1:{port}", *arguments)

    # ------------------------------------------------------------ asking
    def app(self, *modules: str, **settings: Any) -> Aiki:
        """The tasks and workflows of modules (`shop` if none is named, `flows`), in this process, on this system."""
        import importlib
        import sys as _sys

        _sys.path.insert(0, str(HERE))
        try:
            found = [importlib.import_module(module) for module in modules or ("shop",)]
        finally:
            _sys.path.remove(str(HERE))
        strange = [module.__file__ for module in found if Path(module.__file__ or "").parent != HERE]
        assert not strange, f"another test left modules behind that have the names of these: {strange}"
        given = {
            "database_url": self.settings.database_url,
            "broker_url": self.settings.broker_url,
            "prefix": self.settings.prefix,
            **settings,
        }
        made = Aiki(**given)
        for task in (task for module in found for task in module.app.versions.values()):
            define = made.workflow if task.kind == "workflow" else made.task
            define(name=task.name, version=task.version, retry=task.retry)(task.fn)
        self._apps.append(made)
        return made

    def states(self) -> Counter[State]:
        return Counter(self.store.count_by_state())

    def wait_states(self, timeout: float = 60.0, **expected: int) -> None:
        """Wait until the runs in these states number just so."""

        def there() -> bool:
            states = self.states()
            return all(states.get(State(name), 0) == count for name, count in expected.items())

        try:
            wait_until(there, timeout, f"{expected}")
        except AssertionError as error:
            raise AssertionError(f"{error}; there are {dict(self.states())}\n{self.tails()}") from None

    def wait_ended(self, count: int, timeout: float = 60.0) -> None:
        """Wait until `count` runs have ended, however."""
        ends = (State.COMPLETED, State.FAILED, State.CANCELLED, State.DEAD)
        try:
            wait_until(lambda: sum(self.states().get(state, 0) for state in ends) >= count, timeout, f"{count} runs to end")
        except AssertionError as error:
            raise AssertionError(f"{error}; there are {dict(self.states())}\n{self.tails()}") from None

    def marks(self) -> Iterator[Mark]:
        """The whole ledger."""
        return Marks(self.ledger).new()

    def starts(self) -> Counter[str]:
        """How often each task was begun, by the ledger."""
        return Counter(what for kind, what, _, _ in self.marks() if kind == "start")

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        """What a SELECT on the system's database finds; `?` stands for a parameter."""
        db = self.store.db
        return db.read(lambda connection: list(db.execute(connection, sql, parameters).fetchall()))

    def attempts(self) -> list[RecordedAttempt]:
        """All recorded attempts, oldest first."""
        columns = ", ".join(RecordedAttempt._fields[1:])
        sql = (
            f"SELECT run_id, {columns.replace('signal', 'signal_name')} FROM aiki_attempts ORDER BY finished_at, run_id, number"
        )
        return [RecordedAttempt(ids.to_text(bytes(row[0])), *row[1:]) for row in self.rows(sql)]

    def result_count(self) -> int:
        """How many results are recorded."""
        return int(self.rows("SELECT COUNT(*) FROM aiki_payloads WHERE role = 'result'")[0][0])

    def wait_completed(self, accepted: Mapping[int, str], timeout: float = 60.0) -> None:
        """Wait until all these runs (number to id) have completed; others may be about."""
        missing: list[str] = []

        def done() -> bool:
            nonlocal missing
            rows = self.rows("SELECT id FROM aiki_runs WHERE state = 'completed'")
            there = {ids.to_text(bytes(row[0])) for row in rows}
            missing = [run_id for run_id in accepted.values() if run_id not in there]
            return not missing

        deadline = time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                views = [self.store.get_run(run_id) for run_id in missing[:5]]
                raise AssertionError(
                    f"{len(missing)} of {len(accepted)} accepted runs have not completed, such as {views}; there are "
                    f"{dict(self.states())}\n{self.tails()}"
                )
            time.sleep(0.1)

    def tails(self, size: int = 1500) -> str:
        return "\n".join(f"--- {p.name}\n{p.log[-size:]}" for p in self.processes)

    def close(self) -> None:
        for app in self._apps:
            app.close()
        for process in reversed(self.processes):
            process.close()
        self.store.close()
