"""A small reverse proxy: it has a server under a path of its own name, and hands requests on with the path or without it."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade"}


class Front:
    """Listens on a free port of 127.0.0.1. What is not under `path` is another application's: 404, and noted in `elsewhere`."""

    def __init__(self, path: str, *, strips: bool) -> None:
        self.path, self.strips = path, strips
        self.target: tuple[str, int] = ("", 0)
        self.elsewhere: list[str] = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # an answer ends with its connection, so that streams need no framing

            def do_GET(self) -> None:
                front.hand_on(self)

            do_POST = do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: see `elsewhere`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def hand_on(self, asked: BaseHTTPRequestHandler) -> None:
        """One request and its answer, piece by piece."""
        if asked.path != self.path and not asked.path.startswith(self.path + "/"):
            self.elsewhere.append(asked.path)
            asked.send_error(404)
            return
        path = (asked.path[len(self.path) :] or "/") if self.strips else asked.path
        body = asked.rfile.read(int(asked.headers.get("Content-Length", "0")))
        headers = {name: value for name, value in asked.headers.items() if name.lower() not in _HOP}
        connection = http.client.HTTPConnection(*self.target, timeout=60)
        try:
            connection.request(asked.command, path, body or None, headers)
            answer = connection.getresponse()
            asked.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP:
                    asked.send_header(name, value)
            asked.end_headers()
            while piece := answer.read1(1 << 16):
                asked.wfile.write(piece)
                asked.wfile.flush()
        except OSError:
            pass  # the browser has left, or the server has
        finally:
            connection.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
