"""The worker's smaller parts: loading apps, options, deaths by name, the connection."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from aiki.broker import HEARTBEAT, Address, Session, Settled, reports
from aiki.broker.sqlite import SqliteBroker
from aiki.cli.worker import worker
from aiki.errors import BrokerUnavailable, ConfigurationError
from aiki.settings import hidden
from aiki.worker import notices
from aiki.worker.connection import FIRST_BACKOFF, MAX_BACKOFF, Connection
from aiki.worker.notices import LeftRun, Lines, Notice
from aiki.worker.options import Options
from aiki.worker.process import Death, OomWatch, name_death
from aiki.worker.registry import load

APP = """
from aiki.settings import Settings
class App:
    def __init__(self, **settings):
        self.settings = Settings.load({}, **settings)
        self.versions = {}
    def use_broker(self, url):
        self.settings = Settings.load({}, database_url=self.settings.database_url, broker_url=url)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def module(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(APP + text)


def test_an_app_is_found_by_name_or_alone(folder: Path) -> None:
    module(folder, "named", "app = App()\nother = App(namespace='two')\n")
    module(folder, "alone", "mine = App(namespace='three')\nalias = mine\n")
    assert load(["named"]).settings.namespace == "default"
    assert load(["named:other"]).settings.namespace == "two"
    assert load(["alone"]).settings.namespace == "three"
    assert load(["alone"], "sqlite:///elsewhere").settings.broker_url == "sqlite:///elsewhere"


@pytest.mark.parametrize(
    ("spec", "text", "said"),
    [
        ("nowhere", "", "there is no module 'nowhere'"),
        ("a1", "import missing_module_xyz\n", "importing it failed"),
        ("a2", "raise ValueError('broken app')\n", "broken app"),
        ("a3", "x = 1\n", "no Aiki app in module a3"),
        ("a4", "one = App()\ntwo = App()\n", "a4:one, a4:two"),
        ("a5:nothing", "app = App()\n", "no attribute 'nothing'"),
        ("a6:x", "x = 1\n", "it is a int, not an Aiki app"),
    ],
)
def test_what_is_no_app_is_told(folder: Path, spec: str, text: str, said: str) -> None:
    if text:
        module(folder, spec.partition(":")[0], text)
    with pytest.raises(ConfigurationError, match="-A " + spec) as caught:
        load([spec])
    assert said in str(caught.value)


def test_apps_that_do_not_fit_together(folder: Path) -> None:
    module(folder, "b1", "app = App()\napp.versions['x', '1'] = object()\n")
    module(folder, "b2", "app = App()\napp.versions['x', '1'] = object()\n")
    module(folder, "b3", "app = App(namespace='other')\n")
    with pytest.raises(ConfigurationError, match="'x' is defined by both -A b1 and -A b2"):
        load(["b1", "b2"])
    with pytest.raises(ConfigurationError, match="differ in namespace"):
        load(["b1", "b3"])
    assert load(["b1", "b1"]).names == ["x"]


def test_usage_errors_exit_with_2(folder: Path) -> None:
    module(folder, "c1", "app = App()\n")
    for options in (
        [],
        ["-A", "missing_app"],
        ["-A", "c1", "-c", "0"],
        ["-A", "c1", "-Q", "no spaces"],
        ["-A", "c1", "--time-limit", "-1"],
        ["-A", "c1", "--broker", "redis://x"],
        ["-A", "c1", "--loglevel", "loud"],
        ["-A", "c1", "--nonsense"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", "from aiki.cli.worker import worker; worker()", *options],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2, options
        assert done.stderr.strip(), options
        assert "Traceback" not in done.stderr, options


def test_every_option_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Options] = []
    monkeypatch.setattr("aiki.worker.main.main", lambda options: given.append(options) or 0)
    environment = {
        "AIKI_WORKER_APP": "shop,mail:app",
        "AIKI_WORKER_CONCURRENCY": "3",
        "AIKI_WORKER_QUEUES": "a,b",
        "AIKI_WORKER_NAME": "w1",
        "AIKI_WORKER_LOGLEVEL": "debug",
        "AIKI_WORKER_MAX_TASKS_PER_CHILD": "10",
        "AIKI_WORKER_MAX_MEMORY_PER_CHILD": "200000",
        "AIKI_WORKER_TIME_LIMIT": "60",
        "AIKI_WORKER_SOFT_TIME_LIMIT": "50.5",
        "AIKI_WORKER_PREFETCH": "8",
    }
    result = CliRunner().invoke(worker, [], env=environment)
    assert result.exit_code == 0, result.output
    assert given[0] == Options(("shop", "mail:app"), 3, ("a", "b"), "w1", "debug", 10, 200_000, 60.0, 50.5, 8, None)
    result = CliRunner().invoke(worker, ["-A", "shop", "-c", "2", "-Q", "x", "-Q", "y,x"], env=environment)
    assert result.exit_code == 0
    assert (given[1].apps, given[1].concurrency, given[1].queues) == (("shop",), 2, ("x", "y"))
    help_text = CliRunner().invoke(worker, ["--help"], terminal_width=200).output
    assert all(name in help_text for name in environment)
    assert "Exit codes" in help_text
    assert CliRunner().invoke(worker, ["--version"]).output.startswith("aiki-worker")


def test_passwords_are_not_shown() -> None:
    assert hidden("amqp://me:s3cret@host:5672/vhost") == "amqp://me:***@host:5672/vhost"
    assert hidden("amqp://me:a@b@host/v") == "amqp://me:***@host/v"
    assert hidden("sqlite:////tmp/broker.db") == "sqlite:////tmp/broker.db"


# ---------------------------------------------------------------- processes
def status_of(action: str) -> int:
    pid = os.fork()
    if pid == 0:
        if action.isdigit():
            os._exit(int(action))
        os.kill(os.getpid(), getattr(signal, action))
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_deaths_are_named() -> None:
    assert name_death(status_of("0"), lambda: True) == Death(None, 0)
    assert name_death(status_of("9"), lambda: True) == Death(None, 9)
    assert name_death(status_of("SIGTERM"), lambda: True) == Death("SIGTERM", None, False)
    assert str(name_death(status_of("SIGKILL"), lambda: True)) == "SIGKILL (out of memory)"
    assert name_death(status_of("SIGKILL"), lambda: False) == Death("SIGKILL", None, False)


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        ("0::/kube/pod1\n", "sys/fs/cgroup/kube/pod1/memory.events"),
        ("5:memory:/docker/x\n4:cpu:/docker/x\n", "sys/fs/cgroup/memory/docker/x/memory.oom_control"),
        ("", "proc/vmstat"),
    ],
)
def test_kills_for_lack_of_memory_are_counted(tmp_path: Path, cgroup: str, file: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    counter = tmp_path / file
    counter.parent.mkdir(parents=True, exist_ok=True)
    counter.write_text("low 0\noom 7\noom_kill 3\n")
    watch = OomWatch(tmp_path)
    assert not watch.risen()
    counter.write_text("low 0\noom 8\noom_kill 4\n")
    assert watch.risen()
    assert not watch.risen()


# ---------------------------------------------------------------- notices
def test_lines_arrive_whole_and_in_order() -> None:
    ours, theirs = (Lines(end) for end in socket.socketpair())
    notice = Notice(1, "w/0.1", 7, notices.CRASH, "SIGKILL", None, False, [LeftRun("ab", 1, 2, True, 3, 0.0, -1.0)])
    for number in range(3000):  # more than a socket's buffer holds
        ours.send("death", number=number, notice=notice.to_wire())
    got: list[dict[str, object]] = []
    while len(got) < 3000:
        got += theirs.receive()
        ours.flush()
    assert [line["number"] for line in got] == list(range(3000))
    assert Notice.from_wire(got[0]["notice"]) == notice  # type: ignore[arg-type]
    ours.close()
    assert theirs.receive() == []
    assert theirs.closed
    theirs.close()


# ---------------------------------------------------------------- the connection
class Fragile:
    """A real session whose next calls can be made to fail: what the contract says of a session that is lost."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.broken = False
        self.refuse: set[int] = set()
        self.sent: list[tuple[Address, bytes]] = []

    def send(self, to: Address, body: bytes) -> int:
        if self.broken:
            raise BrokerUnavailable("it is broken")
        self.sent.append((to, body))
        return self._session.send(to, body)

    def __getattr__(self, name: str) -> object:
        if self.broken and name != "close":
            raise BrokerUnavailable("it is broken")
        return getattr(self._session, name)

    def settled(self) -> list[Settled]:
        if self.broken:
            raise BrokerUnavailable("it is broken")
        return [Settled(seq, ok and seq not in self.refuse) for seq, ok in self._session.settled()]


class FragileBroker:
    def __init__(self, url: str) -> None:
        self.url = url
        self.broker = SqliteBroker(url)
        self.down = False
        self.sessions: list[Fragile] = []

    def connect(self, name: str, timeout: float = 5.0) -> Fragile:
        if self.down:
            raise BrokerUnavailable("it is down")
        self.sessions.append(Fragile(self.broker.connect(name, timeout)))
        return self.sessions[-1]


@pytest.fixture
def fragile(tmp_path: Path) -> FragileBroker:
    return FragileBroker(f"sqlite:///{tmp_path}/b.db")


TO: Address = reports(0)


def settle(connection: Connection) -> list[bytes]:
    connection.receive(0)
    return [sent.body for sent in connection.settle()]


def test_what_is_unconfirmed_is_sent_again_in_order(fragile: FragileBroker) -> None:
    lost: list[int] = []
    now = [0.0]
    connection = Connection(fragile, "c", lambda: lost.append(1), lambda: now[0], lambda low, high: high)  # type: ignore[arg-type]
    connection.post(TO, b"before there is a session")
    assert connection.connect()
    assert settle(connection) == [b"before there is a session"]
    connection.post(TO, b"1")
    connection.post(TO, b"2", again=False)
    fragile.sessions[-1].broken = True
    connection.post(TO, b"3")
    connection.post(TO, b"4")
    assert lost == [1]
    assert connection.session is None
    assert connection.unconfirmed == 3, "what must not be sent again is gone"
    now[0] += 10
    assert connection.connect()
    assert settle(connection) == [b"1", b"3", b"4"]
    assert connection.unconfirmed == 0


def test_a_refused_message_ends_the_session_and_is_sent_again(fragile: FragileBroker) -> None:
    now = [0.0]
    connection = Connection(fragile, "c", lambda: None, lambda: now[0], lambda low, high: high)  # type: ignore[arg-type]
    connection.connect()
    connection.post(TO, b"1")
    connection.post(TO, b"2")
    fragile.sessions[-1].refuse = {1}
    assert settle(connection) == [b"2"]
    assert connection.session is None
    now[0] += 10
    assert connection.connect()
    assert settle(connection) == [b"1"]


def test_what_was_confirmed_behind_a_refused_message_is_sent_again_too(fragile: FragileBroker) -> None:
    """So that whoever reads in order never misses one message before another."""
    now = [0.0]
    connection = Connection(fragile, "c", lambda: None, lambda: now[0], lambda low, high: high)  # type: ignore[arg-type]
    connection.connect()
    for body in (b"0", b"1", b"2"):
        connection.post(TO, body)
    fragile.sessions[-1].refuse = {2}
    assert settle(connection) == [b"0", b"2"]
    assert connection.unconfirmed == 1
    now[0] += 10
    assert connection.connect()
    sent = fragile.sessions[-1].sent
    assert [body for _, body in sent] == [b"1", b"2"]
    assert settle(connection) == [b"1"], "each is told as confirmed once"
    assert connection.unconfirmed == 0


def test_the_backoff_grows_until_a_session_has_lasted(fragile: FragileBroker) -> None:
    now = [100.0]
    connection = Connection(fragile, "c", lambda: None, lambda: now[0], lambda low, high: high)  # type: ignore[arg-type]
    fragile.down = True
    waits = []
    for _ in range(8):
        assert not connection.connect()
        waits.append(connection.retry_in())
        assert not connection.connect(), "not before its time"
        now[0] += waits[-1]
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(FIRST_BACKOFF)
    assert waits[-1] == pytest.approx(MAX_BACKOFF)
    fragile.down = False
    assert connection.connect()
    connection.lose("at once")
    assert connection.retry_in() == pytest.approx(MAX_BACKOFF), "a session that breaks at once is no recovery"
    now[0] += 10
    assert connection.connect()
    now[0] += 60
    connection.lose("after a minute")
    assert connection.retry_in() == pytest.approx(FIRST_BACKOFF)


def test_without_a_session_everything_is_quiet(fragile: FragileBroker) -> None:
    connection = Connection(fragile, "c", lambda: None)  # type: ignore[arg-type]
    assert connection.receive(0) == []
    assert connection.settle() == []
    assert not connection.tell(HEARTBEAT, b"x")
    assert not connection.subscribe(TO, 1)
    assert not connection.beat()
    connection.close()
