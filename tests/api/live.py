"""A real server: gunicorn, as `aiki-server` starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import urllib3

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


class LiveServer:
    """A server process with its workers, on a database and a broker in `folder` unless told otherwise."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        folder.mkdir()
        self.log = folder / "log"
        self.database_url = variables.get("AIKI_DATABASE_URL", f"sqlite:///{folder / 'aiki.db'}")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AIKI_")}
        environment = {
            **clean,
            "PYTHONPATH": str(ROOT),
            "AIKI_DATABASE_URL": self.database_url,
            "AIKI_BROKER_URL": f"sqlite:///{folder / 'broker.db'}",
            "AIKI_BIND": "127.0.0.1:0",
            "AIKI_WORKERS": "1",
            **variables,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aiki", "server", *arguments],
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.http = urllib3.PoolManager(retries=False, timeout=30.0)
        self.url = ""

    def wait_ready(self) -> LiveServer:
        def found() -> str:
            assert self.process.poll() is None, self.text()
            line = re.search(r"listening on (https?://\S+)", self.text())
            return line[1] if line else ""

        self.url = wait_until(found, 30, "the server to listen")
        wait_until(lambda: self.ask("GET", "/healthz")[0] == 200, 30, "the server to answer")
        return self

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
        """Status, headers and JSON of an answer."""
        sent = {**(headers or {})}
        content = None
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        answer = self.http.request(method, self.url + path, body=content, headers=sent)
        return answer.status, answer.headers, json.loads(answer.data)

    def workers(self) -> list[psutil.Process]:
        """The processes that serve."""
        return psutil.Process(self.process.pid).children()

    def exit_code(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.exit_code()

    def close(self) -> None:
        self.http.clear()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        else:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
