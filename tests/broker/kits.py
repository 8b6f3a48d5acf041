"""What the contract needs of each broker beyond the protocol: sessions that are closed afterwards, queues deleted by force."""

from __future__ import annotations

import secrets
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import IO

import kombu

from aiki.broker import DEAD, Address, Broker, Delivery, Kind, Session, Settled, open_broker, reports, work
from aiki.broker.amqp import AmqpBroker
from aiki.broker.sqlite import SqliteBroker
from tests.waiting import wait_until

TIMEOUT = 20.0


class Kit:
    """A broker for one test, under a prefix of its own."""

    def __init__(self, url: str, queue_type: str = "classic") -> None:
        self.url = url
        self.prefix = f"t{secrets.token_hex(4)}"
        self.queue_type = queue_type
        self.broker: Broker = open_broker(url, prefix=self.prefix, queue_type=queue_type)
        self._sessions: list[Session] = []
        self._processes: list[Process] = []

    def connect(self, name: str = "test") -> Session:
        session = self.broker.connect(name, timeout=TIMEOUT)
        self._sessions.append(session)
        return session

    def process(self, role: str, *arguments: str) -> Process:
        """A real process in one of the roles of `tests.broker.process`."""
        process = Process([self.url, self.prefix, self.queue_type, role, *arguments])
        self._processes.append(process)
        return process

    def delete_queue(self, address: Address) -> None:
        raise NotImplementedError

    def clean(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        for process in self._processes:
            process.close()
        for session in self._sessions:
            session.close()
        self.clean()


class AmqpKit(Kit):
    """RabbitMQ."""

    broker: AmqpBroker

    def delete_queue(self, address: Address) -> None:
        with kombu.Connection(self.url) as connection:
            connection.default_channel.queue_delete(self.broker.topology.queue_name(address))

    def clean(self) -> None:
        # Only what the tests use; exclusive queues are gone with their connections.
        addresses = [DEAD, work("ns", "a"), work("ns", "b"), reports(0)]
        with kombu.Connection(self.url) as connection:
            channel = connection.default_channel
            for address in addresses:
                channel.queue_delete(self.broker.topology.queue_name(address))
            channel.queue_delete(self.broker.topology.probe().name)
            for name in (*(kind.value for kind in Kind), "owner"):
                channel.exchange_delete(f"{self.prefix}.{name}")


class SqliteKit(Kit):
    """A file."""

    broker: SqliteBroker

    def __init__(self, directory: Path) -> None:
        super().__init__(f"sqlite:///{directory}/aiki/broker.db")

    def delete_queue(self, address: Address) -> None:
        db = sqlite3.connect(self.broker.path, timeout=TIMEOUT)
        with db:
            name = f"{address.kind.value}/{address.key}"
            db.execute("DELETE FROM messages WHERE queue IN (SELECT id FROM queues WHERE name = ?)", (name,))
            db.execute("DELETE FROM queues WHERE name = ?", (name,))
        db.close()

    def clean(self) -> None:
        left = sorted(path.name for path in (self.broker.path.parent / "broker.db.sessions").glob("*"))
        assert not left, f"lock files left behind: {left}"


class Process:
    """A process of `tests.broker.process`: it prints a line when something has happened."""

    def __init__(self, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.broker.process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self) -> str:
        """The next line that it prints; empty at its end."""
        stdout: IO[str] | None = self._process.stdout
        assert stdout is not None
        return stdout.readline().strip()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill9(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self) -> int:
        return self._process.wait(TIMEOUT)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def take(session: Session, count: int, timeout: float = TIMEOUT) -> list[Delivery]:
    """The next `count` deliveries; fails if there are more at once, or fewer in the time."""
    got: list[Delivery] = []

    def enough() -> bool:
        got.extend(session.receive(0.2))
        return len(got) >= count

    wait_until(enough, timeout, f"{count} deliveries")
    assert len(got) == count, f"expected {count} deliveries, got {len(got)}"
    return got


def nothing(session: Session, seconds: float = 0.3) -> None:
    """Nothing comes for a while: long enough for what is on its way."""
    assert session.receive(seconds) == []


def settle(session: Session, count: int, timeout: float = TIMEOUT) -> list[Settled]:
    """The next `count` settlements, in order of their numbers."""
    got: list[Settled] = []

    def enough() -> bool:
        session.receive(0.2)
        got.extend(session.settled())
        return len(got) >= count

    wait_until(enough, timeout, f"{count} settlements")
    assert len(got) == count
    return sorted(got)


def publish(session: Session, to: Address, *bodies: bytes) -> None:
    """Send messages and wait until all are confirmed."""
    numbers = [session.send(to, body) for body in bodies]
    assert settle(session, len(bodies)) == [Settled(number, True) for number in numbers]


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]
