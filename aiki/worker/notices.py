"""The messages between supervisor and link: JSON lines over a socket pair.

To the link: `death` (a `Notice`), `draining`, `stop`. To the supervisor: `confirmed` (a notice's number), `interrupt`,
`drain`. The supervisor keeps a notice, and sends it to each new link, until it is confirmed.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass, field
from typing import Any, Final

CRASH: Final = "crash"
TIME_LIMIT: Final = "time_limit"
CANCELLED: Final = "cancelled"
COLD: Final = "cold"
"""The child was killed for nothing that its run had done."""


@dataclass(slots=True)
class LeftRun:
    """A run that a dead child held. `executing`: its user code ran when the child died."""

    run_id: str
    epoch: int
    partition: int
    executing: bool
    ms: int
    hard: float
    retry_delay: float
    attempt: int = 1
    ordinal: int = -1
    """Of the workflow's step that was executing, -1 for none."""


@dataclass(slots=True)
class Notice:
    """The death of a child, and what it left. `reason` concerns the run that was executing."""

    number: int
    executor: str
    pid: int
    reason: str
    signal: str | None
    exit: int | None
    oom: bool
    runs: list[LeftRun] = field(default_factory=list)

    def to_wire(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Notice:
        """Read what `to_wire` wrote."""
        return cls(**{**data, "runs": [LeftRun(**run) for run in data["runs"]]})


class Lines:
    """One end of the pair. Never blocks: what cannot be written yet is kept."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._out = bytearray()
        self._in = bytearray()
        self.closed = False
        """The other end is gone."""

    def fileno(self) -> int:
        """For polling."""
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._out) and not self.closed

    def send(self, kind: str, **fields: Any) -> None:
        """Send one line."""
        self._out += json.dumps({"kind": kind, **fields}).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what can be written now."""
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def receive(self) -> list[dict[str, Any]]:
        """All whole lines that have come."""
        try:
            while True:
                data = self._socket.recv(65536)
                if not data:
                    self.closed = True
                    break
                self._in += data
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        *lines, rest = bytes(self._in).split(b"\n")
        self._in = bytearray(rest)
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
