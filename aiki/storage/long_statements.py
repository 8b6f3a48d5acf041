"""Connections on which a statement may take hours, as changes of large tables do."""

from __future__ import annotations

import socket
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event

LOCK_WAIT: Final = 10
"""Seconds that a statement waits for a table that others use, before it lets them go first."""


def allow_long_statements(engine: sa.Engine) -> None:
    """Let statements take hours: neither this side nor the server ends one, and a connection that is lost is noticed."""

    @event.listens_for(engine, "connect")
    def _prepare(raw: Any, _record: Any) -> None:
        raw._read_timeout = raw._write_timeout = None
        raw._sock.settimeout(None)
        if raw._sock.family in (socket.AF_INET, socket.AF_INET6):
            # Otherwise a firewall forgets a connection that says nothing for minutes, and this side waits for ever.
            raw._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
                if hasattr(socket, option):
                    raw._sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        with raw.cursor() as cursor:
            # A table's lock is asked for again and again, so that others are not held up behind the one that waits.
            limits = f"lock_wait_timeout = {LOCK_WAIT}, innodb_lock_wait_timeout = {LOCK_WAIT}"
            cursor.execute(f"SET SESSION wait_timeout = 28800, {limits}")
            if "MariaDB" in raw.get_server_info():
                cursor.execute("SET SESSION max_statement_time = 0")
