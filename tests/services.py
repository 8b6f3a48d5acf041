"""Private RabbitMQ and MariaDB servers for tests and benchmarks: started, killed, stopped and started again at will.

    with RabbitServer(config=["consumer_timeout = 60000"]) as rabbit, MariaServer() as maria:
        Settings.load(broker_url=rabbit.url, database_url=maria.create_database())

Each server has a temporary directory and ports of its own on 127.0.0.1 and keeps both until `close()`, so a server that
was killed comes back with its data under the same URL. None outlives this process, however that ends: a guard, a small
shell waiting at a pipe, kills what is left when the pipe closes, and removes the directory.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self

import amqp
import pymysql
from sqlalchemy.engine import URL, make_url

from tests import provision
from tests.provision import say

READY_TIMEOUT = 90.0
_GUARD = 'pids=; while read -r line; do pids=$line; done; [ -z "$pids" ] || kill -9 $pids; sleep 0.1; rm -rf "$0"'


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on.

    It lies below the ports that the kernel gives to outgoing connections: one of those could take it while a server that
    was killed is down.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Server:
    """One server process with its directory. `kind` is what messages call it.

    With `url` it is a server that somebody else runs: it can be used, but neither stopped nor killed.
    """

    kind = "server"

    def __init__(self, url: str = "") -> None:
        self.outside = bool(url)
        self._url = url
        self.port = (make_url(url).port or 0) if url else 0
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        if not self.outside:
            self.port = free_port()
            self.home = Path(tempfile.mkdtemp(prefix=f"aiki-{self.kind.lower().replace(' ', '-')}-"))
            self.log = self.home / "log"
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, str(self.home)],
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            atexit.register(self.close)

    # ------------------------------------------------------------ what a kind of server supplies
    def _prepare(self) -> None:
        """Make the directory's contents, once."""

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _helpers(self) -> list[int]:
        """Process ids beside the server's that must end with it."""
        return []

    def _probe(self) -> None:
        """One exchange with the server; raises OSError or a driver's error while it is not ready."""
        raise NotImplementedError

    # ------------------------------------------------------------ what everybody uses
    @property
    def url(self) -> str:
        """Where it is reached; the same before and after a restart."""
        return self._url

    @property
    def pid(self) -> int:
        """The server's process id (RabbitMQ: of the Erlang machine itself)."""
        if self._process is None:
            raise RuntimeError(f"{self.kind} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there (it may be stopped by SIGSTOP, and need not be ready)."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> Self:
        """Start the process and do not wait for it; nothing if it runs. Follow with `wait_ready`."""
        if self.outside or self.running:
            return self
        if not self.log.exists():
            self._prepare()
        say(f"starting {self.kind} on port {self.port}")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                env=self._environment(),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._tell_guard()
        return self

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> Self:
        """Wait until it answers; raises RuntimeError with the end of its log if it ends or takes too long."""
        begun = time.monotonic()
        while True:
            try:
                self._probe()
                break
            except (OSError, amqp.AMQPError, pymysql.MySQLError) as error:
                problem = f"{type(error).__name__}: {error}"
            if not self.outside and not self.running:
                raise RuntimeError(f"{self.kind} ended by itself while starting:\n{self.log_tail()}")
            if time.monotonic() - begun > timeout:
                raise RuntimeError(f"{self.kind} did not answer within {timeout:g} s ({problem}):\n{self.log_tail()}")
            time.sleep(0.02)
        return self

    def start(self) -> Self:
        """Start it, from its data if there are any, and wait until it answers."""
        begun = time.monotonic()
        fresh = not self.running
        self.launch().wait_ready()
        if fresh and not self.outside:
            say(f"{self.kind} is ready after {time.monotonic() - begun:.1f} s")
        return self

    def stop(self, timeout: float = 30.0) -> None:
        """Shut it down properly; kill it after `timeout` seconds. Its data stay."""
        process = self._ours()
        if process is None:
            return
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill9()
        self._ended()

    def kill9(self) -> None:
        """SIGKILL, and wait until it is gone. Its data stay, as after a power cut of the process."""
        process = self._ours()
        if process is None:
            return
        self._signal(signal.SIGKILL)
        process.wait()
        self._ended()

    def sigstop(self) -> None:
        """Freeze it: its sockets stay open and nothing answers."""
        self._ours()
        self._signal(signal.SIGSTOP)

    def sigcont(self) -> None:
        """Let it go on after `sigstop`."""
        self._ours()
        self._signal(signal.SIGCONT)

    def restart(self, kill: bool = True) -> None:
        """Down (by SIGKILL, or properly) and up again; returns when it answers."""
        if kill:
            self.kill9()
        else:
            self.stop()
        self.start()

    def close(self) -> None:
        """End it and throw its data away. Safe to call twice; done at exit."""
        # A forked child runs its parent's exit handlers too: the server is not the child's to end.
        if self._guard is None or self._owner != os.getpid():
            return
        atexit.unregister(self.close)
        self.kill9()
        guard, self._guard = self._guard, None
        guard.communicate()

    def log_tail(self, size: int = 3000) -> str:
        """The end of what it wrote."""
        return "" if self.outside or not self.log.exists() else self.log.read_bytes()[-size:].decode(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ inside
    def _ours(self) -> subprocess.Popen[bytes] | None:
        if self.outside:
            raise RuntimeError(f"this {self.kind} is run by somebody else ({self._url}); a test that stops one makes its own")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _ended(self) -> None:
        self._process = None
        self._tell_guard()

    def _tell_guard(self) -> None:
        if self._guard is None:
            return
        stdin: IO[bytes] | None = self._guard.stdin
        assert stdin is not None
        pids = [*([self._process.pid] if self._process else []), *self._helpers()]
        stdin.write(" ".join(map(str, pids)).encode() + b"\n")
        stdin.flush()


_ERLANG = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
"""The node shares few cores with all that it is tested and measured with: schedulers that spin while they wait, and wake each
other, would take theirs from the rest."""


class RabbitServer(Server):
    """A RabbitMQ node without plugins.

    :param config: further lines of rabbitmq.conf.
    :param newer: RabbitMQ 4 instead of the one that the system has.
    """

    kind = "RabbitMQ"
    _listen = "127.0.0.1"

    def __init__(self, config: Sequence[str] = (), *, url: str = "", newer: bool = False) -> None:
        self.kind = "RabbitMQ 4" if newer else self.kind
        super().__init__(url)
        self.newer = newer
        self.config = list(config)
        self._epmd: subprocess.Popen[bytes] | None = None
        if not self.outside:
            self.node = f"aiki{secrets.token_hex(4)}@localhost"
            self._dist_port, self._epmd_port = free_port(), free_port()
            self._url = f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def _prepare(self) -> None:
        lines = [
            f"listeners.tcp.1 = {self._listen}:{self.port}",
            "log.console = true",
            "log.console.level = error",
            "log.file = false",
            "disk_free_limit.absolute = 50MB",
            *self.config,
        ]
        (self.home / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.home / "enabled_plugins").write_text("[].\n")
        (self.home / "env.conf").write_text("")
        cookie = self.home / ".erlang.cookie"  # or `ctl` and the node could each make one
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        home = str(self.home)
        # What the surroundings say about another RabbitMQ does not concern this one.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
        return inherited | {
            "HOME": home,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": self._listen,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": home,
            "RABBITMQ_MNESIA_DIR": f"{home}/data",
            "RABBITMQ_LOG_BASE": f"{home}/logs",
            "RABBITMQ_PID_FILE": f"{home}/pid",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/env.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{home}/config",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} {_ERLANG}",
            # The script then becomes the Erlang machine instead of waiting for it: the pid that we know is the node's.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _command(self) -> list[str]:
        self._start_epmd()
        return self.inside(provision.rabbitmq_command(newer=self.newer))

    def inside(self, command: list[str]) -> list[str]:
        """The command line that runs a command where the node is."""
        return command

    def _start_epmd(self) -> None:
        # The node's own port mapper: the machine's shared one may be started and killed by others, and outlives us.
        epmd = provision.epmd_command(newer=self.newer)
        if not epmd or (self._epmd is not None and self._epmd.poll() is None):
            return
        self._epmd = subprocess.Popen(
            self.inside([*epmd, "-port", str(self._epmd_port), "-address", self._listen]),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _helpers(self) -> list[int]:
        return [self._epmd.pid] if self._epmd is not None else []

    def _probe(self) -> None:
        url = make_url(self._url)
        connection = amqp.Connection(
            host=f"{url.host}:{url.port or 5672}",
            userid=url.username or "guest",
            password=url.password or "guest",
            virtual_host=url.database if url.database not in (None, "") else "/",
            connect_timeout=2,
            read_timeout=2,
        )
        try:
            connection.connect()
        finally:
            connection.collect()

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """What `rabbitmqctl` prints for these arguments. It takes a second or two: not for polling."""
        self._ours()
        done = subprocess.run(
            self.inside([*provision.rabbitmq_command("rabbitmqctl", newer=self.newer), "-q", "-n", self.node, *arguments]),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
        return done.stdout

    def close(self) -> None:
        """End the node and its port mapper."""
        if self._owner == os.getpid():
            super().close()
            if self._epmd is not None:
                self._epmd.kill()
                self._epmd.wait()
                self._epmd = None


class MariaServer(Server):
    """A MariaDB (or MySQL) server with durable commits.

    :param options: further arguments of the server.
    :param newer: MySQL 9 instead of the one that the system has.
    """

    kind = "MariaDB"

    def __init__(self, options: Sequence[str] = (), *, url: str = "", newer: bool = False) -> None:
        self.kind = "MySQL 9" if newer else self.kind
        super().__init__(url)
        self.newer = newer
        self.options = list(options)
        if not self.outside:
            self._url = f"mysql+pymysql://aiki@127.0.0.1:{self.port}/"

    def _user(self) -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    def _prepare(self) -> None:
        server = provision.mysqld_command(newer=self.newer)
        data = self.home / "data"
        installer = None if self.newer else provision.program("mariadb-install-db", "mysql_install_db")
        if installer:
            command = [str(installer), "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
            command += ["--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=48M", *self._user()]
        else:
            command = [*server, "--no-defaults", "--initialize-insecure", f"--datadir={data}", *self._user()]
        # A server that starts deletes the temporary tables in its folder, those of others that share it too.
        (self.home / "tmp").mkdir()
        made = subprocess.run(
            command,
            cwd=self.home,
            env={**os.environ, "TMPDIR": str(self.home / "tmp")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise RuntimeError(f"a database directory cannot be made ({' '.join(command)}):\n{made.stdout}{made.stderr}")
        # No password: with one, MySQL 8 asks its clients for TLS or RSA. It listens on 127.0.0.1 alone.
        (self.home / "init.sql").write_text(
            "CREATE USER IF NOT EXISTS 'aiki'@'127.0.0.1';\nGRANT ALL ON *.* TO 'aiki'@'127.0.0.1' WITH GRANT OPTION;\n"
        )

    def _command(self) -> list[str]:
        return [
            *provision.mysqld_command(newer=self.newer),
            "--no-defaults",
            *self._user(),
            f"--datadir={self.home / 'data'}",
            f"--tmpdir={self.home / 'tmp'}",
            f"--socket={self.home / 'sock'}",
            f"--pid-file={self.home / 'pid'}",
            f"--init-file={self.home / 'init.sql'}",
            "--skip-networking=0",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--skip-name-resolve",
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-buffer-pool-size=128M",
            "--performance-schema=OFF",
            "--max-connections=300",
            *(
                ["--mysqlx=OFF", "--secure-file-priv=NULL", "--innodb-redo-log-capacity=96M"]
                if self.newer
                else ["--innodb-log-file-size=48M"]
            ),
            *self.options,
        ]

    def _probe(self) -> None:
        _connect(make_url(self._url), "", timeout=2).close()

    def execute(self, statement: str, database: str = "", parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement by a connection of its own and return its rows."""
        url = make_url(self._url)
        with contextlib.closing(_connect(url, database)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, tuple(parameters) or None)
            return list(cursor.fetchall())

    def create_database(self, name: str = "") -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        name = name or f"aiki_test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        return make_url(self._url).set(database=name).render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        """Drop a database that `create_database` made, together with the connections that still use it."""
        name = make_url(url).database
        # An open transaction of a connection that a test forgot would hold DROP up for ever.
        for row in self.execute("SELECT id FROM information_schema.processlist WHERE db = %s", parameters=[name]):
            with contextlib.suppress(pymysql.MySQLError):
                self.execute(f"KILL {row[0]}")
        self.execute(f"DROP DATABASE IF EXISTS `{name}`")


def _connect(url: URL, database: str, timeout: int = 30) -> pymysql.Connection[Any]:
    return pymysql.connect(
        host=url.host or "127.0.0.1",
        port=url.port or 3306,
        user=url.username,
        password=url.password or "",
        database=database or url.database or None,
        connect_timeout=min(timeout, 5),
        read_timeout=timeout,
        autocommit=True,
    )


def shared_rabbit(*, newer: bool = False) -> RabbitServer:
    """The RabbitMQ for those who only use it: somebody's, or a private one that is not started yet."""
    variable = provision.RABBITMQ4_VARIABLE if newer else provision.AMQP_VARIABLE
    return RabbitServer(url=provision.outside_url(variable) or "", newer=newer)


def shared_maria(*, newer: bool = False) -> MariaServer:
    """The database server for those who only use it: somebody's, or a private one that is not started yet."""
    variable = provision.MYSQL9_VARIABLE if newer else provision.MYSQL_VARIABLE
    return MariaServer(url=provision.outside_url(variable) or "", newer=newer)


@contextlib.contextmanager
def servers() -> Iterator[tuple[RabbitServer, MariaServer]]:
    """Both servers, started side by side and closed at the end."""
    rabbit, maria = shared_rabbit(), shared_maria()
    try:
        rabbit.launch()
        maria.launch()
        yield rabbit.wait_ready(), maria.wait_ready()
    finally:
        rabbit.close()
        maria.close()
