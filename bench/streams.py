"""How much many open dashboards cost: threads, CPU and the latency of the API beside them.

    python -m bench.streams [--listeners 200] [--seconds 15] [--rate 20] [--database mysql+pymysql://...]

One server process (16 threads) is started, on SQLite unless told otherwise. API latency is measured alone, then with so many
event streams open (half of them follow the list, with the overview; half a run each), while new runs come at `--rate` a second.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import urllib3

from bench.config import ROOT


class Listeners:
    """Many sockets read by one thread."""

    def __init__(self, url: str, paths: list[str]) -> None:
        self.events = self.bytes = 0
        self._selector = selectors.DefaultSelector()
        at = urlsplit(url)
        for path in paths:
            sock = socket.create_connection((at.hostname, at.port), timeout=30)
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {at.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode())
            head = sock.recv(4096)
            assert b" 200 " in head.split(b"\r\n")[0], head
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            for key, _ in self._selector.select(0.5):
                data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                if not data:
                    self._selector.unregister(key.fileobj)
                self.bytes += len(data)
                self.events += data.count(b"\nevent: ")


def start(folder: Path, database: str, streams: int) -> tuple[subprocess.Popen[bytes], str]:
    """A server, and its URL."""
    log = folder / "log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIKI_")}
    environment = {
        **clean,
        "PYTHONPATH": str(ROOT),
        "AIKI_DATABASE_URL": database or f"sqlite:///{folder / 'aiki.db'}",
        "AIKI_BROKER_URL": f"sqlite:///{folder / 'broker.db'}",
        "AIKI_BIND": "127.0.0.1:0",
        "AIKI_WORKERS": "1",
        "AIKI_STREAMS": str(streams),
    }
    command = [sys.executable, "-m", "aiki", "server"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out)
    while True:
        found = re.search(r"listening on (http://\S+)", log.read_text())
        if found:
            return process, found[1]
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.1)


def measure(http: urllib3.PoolManager, url: str, worker: psutil.Process, seconds: float, rate: float) -> dict[str, Any]:
    """New runs at a rate, and reads of one in between; what they took, and what the server's process used."""
    body = json.dumps({"name": "bench.task", "args": [1]}).encode()
    headers = {"Content-Type": "application/json"}
    reads: list[float] = []
    writes: list[float] = []
    cpu, began = sum(worker.cpu_times()[:2]), time.monotonic()
    path = ""
    while (now := time.monotonic()) - began < seconds:
        answer = http.request("POST", f"{url}/api/v1/runs", body=body, headers=headers)
        writes.append(time.monotonic() - now)
        path = path or json.loads(answer.data)["id"]
        then = time.monotonic()
        http.request("GET", f"{url}/api/v1/runs/{path}").data  # noqa: B018
        reads.append(time.monotonic() - then)
        time.sleep(max(0.0, 1 / rate - (time.monotonic() - now)))
    used = (sum(worker.cpu_times()[:2]) - cpu) / (time.monotonic() - began)
    out = {"cpu_percent": round(100 * used, 1), "threads": worker.num_threads(), "rss_mb": worker.memory_info().rss >> 20}
    for name, took in (("read", reads), ("write", writes)):
        cuts = statistics.quantiles(took, n=100)
        out |= {f"{name}_p50_ms": round(1000 * cuts[49], 1), f"{name}_p95_ms": round(1000 * cuts[94], 1)}
    return out


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listeners", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--database", default="")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        process, url = start(Path(name), asked.database, asked.listeners + 10)
        try:
            http = urllib3.PoolManager(maxsize=4)
            headers = {"Content-Type": "application/json"}
            http.request(
                "POST", f"{url}/api/v1/definitions", body=b'{"definitions": [{"name": "bench.task"}]}', headers=headers
            )
            body = json.dumps({"runs": [{"name": "bench.task"}] * (asked.listeners // 2)}).encode()
            runs = json.loads(http.request("POST", f"{url}/api/v1/runs/batch", body=body, headers=headers).data)["runs"]
            worker = psutil.Process(process.pid).children()[0]
            measure(http, url, worker, 3, asked.rate)
            print("alone:    ", json.dumps(measure(http, url, worker, asked.seconds, asked.rate)))
            paths = [f"/api/v1/runs/{run['id']}/stream" for run in runs]
            paths += ["/api/v1/stream?topics=runs,overview"] * (asked.listeners - len(paths))
            began = time.monotonic()
            listeners = Listeners(url, paths)
            print(f"{len(paths)} streams opened in {time.monotonic() - began:.2f} s")
            time.sleep(2)
            before = listeners.events, listeners.bytes
            print("listened: ", json.dumps(measure(http, url, worker, asked.seconds, asked.rate)))
            events, size = listeners.events - before[0], listeners.bytes - before[1]
            print(f"events/s {events / asked.seconds:.0f}, kB/s {size / asked.seconds / 1000:.0f}")
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    main()
