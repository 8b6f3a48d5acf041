"""Dramatiq: the actor that its worker loads, and how it is measured. Variant: `none`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.broker import pika_url
from bench.config import CHILDREN, PAYLOAD, current
from bench.contender import Contender
from bench.marks import mark

if TYPE_CHECKING:
    from bench.broker import Broker

_config = current()
broker: Any = RabbitmqBroker(url=pika_url(_config.amqp_url))
dramatiq.set_broker(broker)


def noop(number: int, text: str) -> dict[str, int]:
    mark(number)
    return {"n": number}


actor: Any = dramatiq.actor(queue_name=_config.run)(noop)


class DramatiqContender(Contender):
    """Its defaults, with processes of one thread each. It acknowledges after the actor has run; nothing is stored."""

    _broker: Broker

    def prepare(self) -> None:
        """Send one message, so that all is connected and declared, and throw it away."""
        from bench.broker import Broker
        from bench.program import wait_for

        self._broker = Broker(self.config.amqp_url)
        actor.send(-1, PAYLOAD)
        wait_for(lambda: self._broker.ready(self.config.run) == 1, "the first message")
        broker.flush(self.config.run)

    def enqueue(self, count: int) -> None:
        for number in range(count):
            actor.send(number, PAYLOAD)

    def in_broker(self, count: int) -> bool:
        return self._broker.ready(self.config.run) >= count

    def worker_command(self) -> list[str]:
        command = [sys.executable, "-m", "dramatiq", __name__, "--skip-logging"]
        return [*command, "--processes", str(CHILDREN), "--threads", "1"]

    def services(self) -> Mapping[str, int]:
        return {"broker": self.config.broker_pid}

    def close(self) -> None:
        broker.close()
        self._broker.close()
