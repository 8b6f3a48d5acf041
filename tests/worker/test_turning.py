"""A link that has heard of very many revocations asks once which of them are of use."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from aiki import messages
from aiki.broker import open_broker
from aiki.messages import RunKey
from aiki.worker.link import Link
from aiki.worker.notices import Lines
from aiki.worker.options import Options
from aiki.worker.revoked import Revoked
from aiki.worker.slots import Shared
from tests.waiting import wait_until
from tests.worker.harness import NAMESPACE, Orchestrator

SETTINGS = SimpleNamespace(namespace=NAMESPACE)
REGISTRY = cast(Any, SimpleNamespace(settings=SETTINGS, triples=list, names=[]))


def test_one_snapshot_tells_what_is_of_use(tmp_path: Path) -> None:
    broker = open_broker(f"sqlite:///{tmp_path}/broker.db")
    orchestrator = Orchestrator(broker)
    shared = Shared(1, revoked=Revoked(first=8, kept=100))
    ours, theirs = socket.socketpair()
    link = Link("a" * 32, REGISTRY, Options(("app",), name="tested"), shared, broker, Lines(theirs), [])
    revoked = shared.revoked

    def turned(condition: Any) -> None:
        def once() -> bool:
            link.turn()
            return bool(condition())

        wait_until(once, 20, "the link")

    turned(lambda: shared.go)
    keys = [RunKey(number.to_bytes(16).hex(), 1) for number in range(150)]
    orchestrator.snapshot = keys[120:]
    hellos = sum(beat.kind == messages.HELLO for beat in orchestrator.beats)
    orchestrator.control(messages.REVOKE, keys)
    turned(lambda: revoked.complete)
    for _ in range(5):
        link.turn()
    assert sum(beat.kind == messages.HELLO for beat in orchestrator.beats) == hellos + 1
    assert len(revoked) == 30
    assert all(revoked.covers(bytes.fromhex(key.run_id), 1) for key in keys), "the area before counts until the next turn"
    orchestrator.close()
    link._connection.close()
    ours.close()
    theirs.close()
