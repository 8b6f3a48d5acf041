"""CPU seconds by component: the servers, the processes started here and their children."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import psutil


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process, of its living descendants, and of the children that it has reaped."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(one.cpu_times()[:4])
    return total


def own_seconds() -> float:
    """User and system seconds of this process alone."""
    return sum(psutil.Process().cpu_times()[:2])


def steal_seconds() -> float:
    """What the hypervisor has taken from this machine since it started; 0 where that is not known."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def listener(port: int) -> int:
    """The process that listens on a TCP port of this machine; 0 if there is none or it may not be seen."""
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address.port == port and connection.pid:
                return int(connection.pid)
    return 0


class CpuClock:
    """Counts from its making on. A component of process id 0 is not measured.

    :param client: whether this process's own time is counted, as `client`.
    """

    def __init__(self, components: Mapping[str, int], *, client: bool) -> None:
        self._components = {name: pid for name, pid in components.items() if pid}
        self._client = client
        self._begin = self._now()

    def _now(self) -> dict[str, float]:
        own = {"client": own_seconds()} if self._client else {}
        return own | {name: cpu_seconds(pid) for name, pid in self._components.items()}

    def read(self) -> dict[str, float]:
        """Seconds by component since it was made."""
        return {name: seconds - self._begin[name] for name, seconds in self._now().items()}


def per_1000(seconds: Mapping[str, float], tasks: float) -> dict[str, float]:
    """CPU seconds for 1,000 tasks by component, and their `sum`; empty if nothing was counted."""
    if tasks < 1:
        return {}
    each = {name: value / tasks * 1000 for name, value in seconds.items()}
    return {name: round(value, 4) for name, value in (each | {"sum": sum(each.values())}).items()}
