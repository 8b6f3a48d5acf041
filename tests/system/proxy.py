"""A TCP proxy that can hold back what goes through it, each way apart: late confirms, late publishes."""

from __future__ import annotations

import select
import socket
import threading


class Proxy:
    """Listens on 127.0.0.1:`port` and passes on to `target`. What is held back is not lost: `release` lets it go on.

    What was on its way is delivered even if the sender has closed its connection meanwhile.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = {"up": threading.Event(), "down": threading.Event()}
        self._stop = threading.Event()
        for event in self._open.values():
            event.set()
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def hold(self, way: str) -> None:
        """Hold back what goes `up` (to the server) or `down` (to the client) from now on."""
        self._open[way].clear()

    def release(self, way: str) -> None:
        """Pass on again."""
        self._open[way].set()

    def switch(self, target: tuple[str, int]) -> None:
        """Lead new connections elsewhere; those that are open stay where they are."""
        self._target = target

    def close(self) -> None:
        """End all connections."""
        self._stop.set()
        for event in self._open.values():
            event.set()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def passes(self, way: str, data: bytes) -> bool:
        """Whether these bytes are passed on; otherwise the connection is cut off. To be overridden."""
        del way, data
        return True

    def _run(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            if not select.select([self._listener], [], [], 0.1)[0]:
                continue
            client, _ = self._listener.accept()
            server = socket.create_connection(self._target, timeout=5)
            server.settimeout(None)
            self._run(self._pass_on, client, server, "up")
            self._run(self._pass_on, server, client, "down")

    def _pass_on(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while not self._stop.is_set():
                if not select.select([source], [], [], 0.1)[0]:
                    continue
                data = source.recv(65536)
                self._open[way].wait()
                if not self.passes(way, data):
                    break
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    break
                sink.sendall(data)
        except (OSError, ValueError):  # ValueError: the other way has closed both
            pass
        finally:
            if way == "down":
                source.close()
                sink.close()
