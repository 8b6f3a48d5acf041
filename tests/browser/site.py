"""A real `aiki dev` with the example shop, whose runs are in every state that a page can show."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import urllib3

from aiki.ids import new_id
from tests.waiting import wait_until

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Site:
    """The processes, and what was enqueued. `runs` holds the ids of runs, and of a batch, by what they are for."""

    def __init__(self, folder: Path, port: int) -> None:
        self.log = folder / "dev.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AIKI_")}
        environment = {**clean, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "examples", HERE)))}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aiki", "dev", "-A", "shop", "-A", "nap", "-p", str(port), "--no-reload"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.http = urllib3.PoolManager(retries=False, timeout=30.0)
        self.runs: dict[str, str] = {}
        self.url = ""

    def wait_ready(self) -> Site:
        def found() -> str:
            text = self.log.read_text(errors="replace")
            assert self.process.poll() is None, text
            line = re.search(r"Dashboard: (http://\S+?)/?\s", text)
            return line[1] if line else ""

        self.url = wait_until(found, 60, "aiki dev to tell where the dashboard is")
        return self

    # ------------------------------------------------------------ the API
    def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        content = None if body is None else json.dumps(body).encode()
        answer = self.http.request(method, f"{self.url}/api/v1{path}", body=content, headers=headers)
        assert answer.status < 400, answer.data
        return json.loads(answer.data)

    def enqueue(self, name: str, *args: Any, app: str = "shop", **options: Any) -> str:
        run_id = str(new_id())
        self.ask("POST", "/runs", {"id": run_id, "name": f"{app}.{name}", "args": list(args), **options})
        return run_id

    def state(self, run_id: str) -> str:
        return str(self.ask("GET", f"/runs/{run_id}")["state"])

    def wait_state(self, run_id: str, *states: str) -> None:
        wait_until(lambda: self.state(run_id) in states, 60, f"run {run_id} to be {' or '.join(states)}")

    # ------------------------------------------------------------ the shop
    def fill(self) -> Site:
        """Enqueue a bit of everything, and wait until each has come where it is to be."""
        runs = self.runs
        runs["completed"] = self.enqueue("charge", "o-1", 4200)
        runs["failed"] = self.enqueue("charge", "o-11", 4200)
        runs["retried"] = self.enqueue("refund", "o-2", 2**70)
        runs["scheduled"] = self.enqueue("charge", "o-2", 100, countdown=86_400)
        runs["hostile"] = self.enqueue("send_mail", "o-3", "<img src=x onerror=alert(1)> 'quoted' \"twice\" & more")
        runs["nobody"] = self.enqueue("charge", "o-4", 100, queue="nobody")
        runs["waiting"] = self.enqueue("checkout", "o-5", 990, ["lamp", "desk"])
        runs["failed workflow"] = self.enqueue("checkout", "o-31", 990, ["lamp"])
        runs["done workflow"] = self.enqueue("checkout", "o-6", 990, ["lamp", "desk", "chair", "bed", "rug", "pot", "pan"])
        runs["paused"] = self.enqueue("charge", "o-8", 100, countdown=86_400)
        runs["cancelled"] = self.enqueue("charge", "o-9", 100, countdown=86_400)
        runs["long"] = self.enqueue("render_invoice", "o-" + "very-long-order-number-" * 20 + "7", 100)
        self.ask("POST", f"/runs/{runs['done workflow']}/events", {"name": "approved", "data": {"by": "Ada", "n": 2**70}})
        self.ask("POST", f"/runs/{runs['paused']}/pause", {"reason": "let us look first"})
        self.ask("POST", f"/runs/{runs['cancelled']}/cancel", {"reason": "ordered twice"})
        for name, state in (
            *(("completed", "completed"), ("failed", "failed"), ("retried", "failed"), ("hostile", "completed")),
            *(("waiting", "waiting"), ("failed workflow", "failed"), ("done workflow", "completed"), ("long", "completed")),
        ):
            self.wait_state(runs[name], state)
        return self

    def close(self) -> None:
        self.http.clear()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
