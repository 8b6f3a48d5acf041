"""Real processes for the contract: `python -m tests.broker.process URL PREFIX QUEUE_TYPE ROLE …`."""

from __future__ import annotations

import gc
import os
import sys

from aiki.broker import Broker, open_broker, work
from aiki.errors import BrokerUnavailable

QUEUE = work("ns", "a")
BACK = work("ns", "b")


def say(text: str) -> None:
    print(text, flush=True)


def hold(broker: Broker, count: str) -> None:
    """Take messages, ack none, and wait to be killed."""
    session = broker.connect("hold")
    session.subscribe(QUEUE, int(count))
    taken = 0
    while taken < int(count):
        taken += len(session.receive(1.0))
    say(f"holds {taken}")
    while True:
        session.receive(1.0)


def hold_and_fork(broker: Broker, count: str) -> None:
    """The same, with a forked child that lives on. It says its pid."""
    session = broker.connect("hold")
    session.subscribe(QUEUE, int(count))
    taken = 0
    while taken < int(count):
        taken += len(session.receive(1.0))
    child = os.fork()
    if child == 0:
        sys.stdin.read()  # until our parent's parent closes the pipe
        os._exit(0)
    say(f"forked {child}")
    while True:
        session.receive(1.0)


def fork_and_go_on(broker: Broker) -> None:
    """A child uses, collects and closes what it inherited, works on its own, and ends; the parent's session is as before."""
    session = broker.connect("parent")
    session.subscribe(QUEUE, 10)
    (first,) = session.receive(10.0)
    session.send(BACK, b"sent before the fork, written after")
    if os.fork() == 0:
        for forbidden in (lambda: session.receive(0), lambda: session.send(BACK, b"no"), session.beat):
            try:
                forbidden()
            except BrokerUnavailable:
                continue
            os._exit(1)
        session.ack([first])
        session.close()
        del session
        gc.collect()
        own = broker.connect("child")
        own.send(BACK, b"child")
        while not own.settled():
            own.receive(1.0)
        own.close()
        sys.exit(0)
    _, status = os.wait()
    assert status == 0, status
    session.ack([first])
    session.send(BACK, b"parent")
    settled = 0
    while settled < 2:
        session.receive(1.0)
        settled += len(session.settled())
    session.close()
    say("fine")


def produce(broker: Broker, count: str, mark: str) -> None:
    """Send that many messages, confirmed."""
    session = broker.connect("produce")
    done = 0
    for number in range(int(count)):
        session.send(QUEUE, f"{mark}{number}".encode())
        if number % 7 == 0:
            session.receive(0)
            done += sum(one.ok for one in session.settled())
    while done < int(count):
        session.receive(1.0)
        done += sum(one.ok for one in session.settled())
    session.close()
    say(f"produced {done}")


def consume(broker: Broker) -> None:
    """Take and ack whatever comes, saying each; stop at a message `stop`."""
    session = broker.connect("consume")
    session.subscribe(QUEUE, 20)
    say("ready")
    stop = False
    while not stop:
        for delivery in session.receive(1.0):
            say(delivery.body.decode())  # before the ack: whoever is killed in between has it told twice
            session.ack([delivery])
            stop = delivery.body == b"stop"
            if stop:
                break
    session.close()


def main() -> None:
    url, prefix, queue_type, role, *arguments = sys.argv[1:]
    broker = open_broker(url, prefix=prefix, queue_type=queue_type)
    roles = {"hold": hold, "hold_and_fork": hold_and_fork, "fork": fork_and_go_on, "produce": produce, "consume": consume}
    roles[role](broker, *arguments)  # type: ignore[operator]


if __name__ == "__main__":
    main()
