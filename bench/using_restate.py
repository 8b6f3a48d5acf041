"""Restate: its service, which hypercorn serves to restate-server, and how it is measured. Variants: `flows`, `flow-result`.

The server is as it comes (its log is synced to disk), but for the ports and the telemetry, which is off.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import restate

from bench.config import CHILDREN, STEPS
from bench.contender import Contender
from bench.marks import begin, mark
from bench.program import Program, wait_for

HOST: Final = "127.0.0.1"
SENDERS: Final = 8
WARM: Final = 20
service: Any = restate.Service("Bench")


async def step(number: int) -> int:
    return number


@service.handler()  # type: ignore[untyped-decorator, unused-ignore]
async def flow(ctx: restate.Context, number: int) -> dict[str, int]:
    begin()
    for part in range(STEPS):
        await ctx.run_typed(f"step-{part}", step, restate.RunOptions(), number * 10 + part)
    mark(number)
    return {"n": number}


app: Any = restate.app([service])


class Peer:
    """A connection that is kept, speaking JSON."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """What the answer holds; raises RuntimeError if it is an error."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path} gave {response.status}: {content[:500]!r}")
        return json.loads(content) if content else None

    def answers(self, path: str) -> bool:
        """Whether a GET succeeds."""
        try:
            self.ask("GET", path)
        except (OSError, http.client.HTTPException, RuntimeError):
            self._connection.close()
            return False
        return True

    def close(self) -> None:
        """Leave."""
        self._connection.close()


class RestateContender(Contender):
    """A restate-server of its own, and eight senders. It begins with what is sent at once: it holds nothing for later."""

    stores = True
    on_arrival = True
    _server: Program
    _admin: Peer
    _senders: list[Peer]

    def prepare(self) -> None:
        """Start the server."""
        from bench.provision import need_restate
        from tests.services import free_port

        folder = Path(self.config.folder)
        ingress, admin, node, self._service_port = (free_port() for _ in range(4))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RESTATE_")} | {
            "RESTATE_BASE_DIR": str(folder / "restate"),
            "TMPDIR": str(folder),  # it leaves files in there
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BIND_IP": HOST,
            "RESTATE_BIND_PORT": str(node),
            "RESTATE_ADMIN__BIND_PORT": str(admin),
            "RESTATE_INGRESS__BIND_PORT": str(ingress),
            "RESTATE_LOG_FILTER": "warn",
            "DO_NOT_TRACK": "1",
        }
        self._server = Program("server", [str(need_restate()), "--no-logo"], folder, environment)
        self._admin, self._senders = Peer(admin), [Peer(ingress) for _ in range(SENDERS)]
        wait_for(lambda: self._admin.answers("/health"), "restate-server to answer", self._server, timeout=60)
        wait_for(lambda: self._senders[0].answers("/restate/health"), "restate-server's ingress", self._server, timeout=60)

    def worker_command(self) -> list[str]:
        bind = f"{HOST}:{self._service_port}"
        return [sys.executable, "-m", "hypercorn", "--workers", str(CHILDREN), "--bind", bind, f"{__name__}:app"]

    def await_worker(self, worker: Program) -> None:
        """Tell the server of the service, and run some workflows that are not counted."""
        wait_for(self._registered, "restate-server to find the service", worker, self._server, every=0.2, timeout=60)
        self._send(range(-WARM, 0), "/Bench/flow")

    def _registered(self) -> bool:
        try:
            self._admin.ask("POST", "/deployments", {"uri": f"http://{HOST}:{self._service_port}"})
        except RuntimeError:  # it does not listen yet
            return False
        return True

    def _send(self, numbers: Iterable[int], path: str) -> None:
        """Send, each of the senders its share."""
        every = list(numbers)

        def send(index: int) -> None:
            for number in every[index::SENDERS]:
                self._senders[index].ask("POST", path, number)

        with ThreadPoolExecutor(SENDERS) as pool:
            list(pool.map(send, range(SENDERS)))

    def enqueue(self, count: int) -> None:
        self._send(range(count), "/Bench/flow/send")

    def in_broker(self, count: int) -> bool:
        return True

    def services(self) -> Mapping[str, int]:
        return {"server": self._server.pid}

    def stored(self) -> int:
        query = "SELECT COUNT(*) AS n FROM sys_invocation WHERE status = 'completed'"
        return int(self._admin.ask("POST", "/query", {"query": query})["rows"][0]["n"]) - WARM

    def round_trip(self) -> Callable[[int], object]:
        return lambda number: self._senders[0].ask("POST", "/Bench/flow", number)

    def close(self) -> None:
        for peer in (self._admin, *self._senders):
            peer.close()
        self._server.stop()
