"""The servers that the tests start: they come back from a kill with their data, and never outlive their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import amqp
import pytest
from sqlalchemy import create_engine, text

from tests.services import MariaServer, RabbitServer
from tests.waiting import wait_until

CHILD = """
import os, sys
from tests.services import servers
with servers() as (rabbit, maria):
    rabbit.sigstop()
    print(rabbit.pid, maria.pid, rabbit.home, maria.home, flush=True)
    sys.stdin.read()
"""


def _connect(server: RabbitServer) -> amqp.Connection:
    connection = amqp.Connection(host=f"127.0.0.1:{server.port}", virtual_host="/", connect_timeout=5, read_timeout=10)
    connection.connect()
    return connection


def test_a_killed_rabbitmq_comes_back_with_its_messages(own_rabbit: RabbitServer) -> None:
    with _connect(own_rabbit) as connection:
        channel = connection.channel()
        channel.confirm_select()
        channel.queue_declare("kept", durable=True, auto_delete=False)
        channel.basic_publish(amqp.Message("body", delivery_mode=2), routing_key="kept")
        connection.drain_events(timeout=10)  # the confirm
        before = own_rabbit.pid
        own_rabbit.kill9()
        assert not own_rabbit.running
        connection.collect()
    own_rabbit.start()
    assert own_rabbit.pid != before
    with _connect(own_rabbit) as connection:
        message = connection.channel().basic_get("kept", no_ack=True)
        assert message.body == "body"


def test_a_killed_mariadb_comes_back_with_its_rows(own_maria: MariaServer) -> None:
    url = own_maria.create_database()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (id INT PRIMARY KEY)"))
        connection.execute(text("INSERT INTO kept VALUES (7)"))
    engine.dispose()
    own_maria.restart()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM kept")).scalar_one() == 7
    engine.dispose()
    own_maria.drop_database(url)


def test_a_frozen_server_does_not_answer_until_it_goes_on(own_maria: MariaServer) -> None:
    own_maria.sigstop()
    try:
        with pytest.raises(RuntimeError, match="did not answer"):
            own_maria.wait_ready(timeout=0.1)
    finally:
        own_maria.sigcont()
    own_maria.wait_ready(timeout=20)


def test_each_test_has_an_empty_database(mysql_database: str) -> None:
    engine = create_engine(mysql_database)
    with engine.connect() as connection:
        assert connection.execute(text("SHOW TABLES")).all() == []
    engine.dispose()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_servers_end_with_the_process_that_started_them(how: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        *pids, home, other = child.stdout.readline().split()
        child.send_signal(how)
        child.wait(10)
        wait_until(lambda: not any(_alive(int(pid)) for pid in pids), 15, "both servers to end")
        wait_until(lambda: not Path(home).exists() and not Path(other).exists(), 15, "both directories to be removed")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
