"""What a page says, judged: what fails which probe, with which code, and in which words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aiki import vitals
from aiki.cli.judging import ILL, WAITS, WELL, Probe, judge
from aiki.vitals import Reading

SECOND = 10**9
NOW = 10_000 * SECOND


def ago(seconds: float) -> int:
    return NOW - int(seconds * SECOND)


def worker(**changed: int) -> Reading:
    words = {
        "STARTED": ago(100),
        "TURNED": ago(0.1),
        "SESSION": ago(90),
        "HEARD": ago(5),
        "ANSWERS": 1,
        "LINK": 12,
        "LINK_TURNED": ago(0.1),
        "CHILDREN": 4,
        "TAKING": 4,
        **changed,
    }
    return reading("worker", words)


def orchestrator(**changed: int) -> Reading:
    return reading("orchestrator", {"STARTED": ago(100), "TURNED": ago(0), "SESSION": ago(90), "DATABASE": ago(1), **changed})


def reading(kind: str, words: dict[str, int]) -> Reading:
    all_words = [0] * 12
    for name, value in words.items():
        all_words[getattr(vitals, name)] = value
    return Reading(7, {"kind": kind, "name": "w-1", "pid": 7}, tuple(all_words), ("", "", ""))


def told(item: Reading, broker: str = "", inside: str = "") -> Reading:
    return replace(item, texts=("", broker, inside))


CASES: dict[str, tuple[Reading, int, int, int, str]] = {
    # what: (the page, the codes of --live, --started and --ready, what is said of it)
    "well": (worker(), WELL, WELL, WELL, "ready: a session for 90 s, an orchestrator heard 5 s ago, 4 of 4 children take work"),
    "imports": (told(reading("worker", {}), inside="it is importing shop"), WELL, ILL, ILL, "it is importing shop"),
    "no broker": (
        told(worker(SESSION=0), "ACCESS_REFUSED - Login was refused"),
        *(WELL, WELL, WAITS),
        "it has no session with the broker: ACCESS_REFUSED - Login was refused",
    ),
    "never answered": (worker(HEARD=0, TAKING=0), WELL, WELL, WAITS, "no orchestrator has answered it yet"),
    "not answered": (worker(HEARD=ago(41)), WELL, WELL, WAITS, "no orchestrator has answered it for 41 s"),
    "an old orchestrator": (worker(HEARD=ago(4000), ANSWERS=0), WELL, WELL, WELL, "is ready"),
    "a child hangs": (
        told(worker(TAKING=3), inside="child 2 (pid 9) has not moved for 30 s, and executes nothing"),
        *(WELL, WELL, ILL),
        "1 of 4 children take no work: child 2 (pid 9) has not moved for 30 s",
    ),
    "all children hang": (told(worker(TAKING=0, STUCK=ago(60)), inside="child 0"), WELL, WELL, ILL, "4 of 4 children"),
    "all children hang for long": (worker(TAKING=0, STUCK=ago(181)), ILL, ILL, ILL, "none of its children has moved for 181 s"),
    "the supervisor is slow": (worker(TURNED=ago(30)), WELL, WELL, ILL, "it has not moved for 30 s"),
    "the supervisor hangs": (worker(TURNED=ago(181)), ILL, ILL, ILL, "it has not moved for 181 s"),
    "the link is slow": (worker(LINK_TURNED=ago(30)), WELL, WELL, ILL, "its link has not moved for 30 s"),
    "the link hangs": (worker(LINK_TURNED=ago(181)), ILL, ILL, ILL, "its link has not moved for 181 s"),
    "the link is stopped": (replace(worker(), link_state="T"), ILL, ILL, ILL, "its link is stopped by a signal"),
    "it is stopped": (replace(worker(), state="T"), ILL, ILL, ILL, "it is stopped by a signal"),
    "it is a zombie": (replace(worker(), state="Z"), ILL, ILL, ILL, "it has ended"),
    "it drains": (worker(DRAINING=1, TAKING=0), WELL, WELL, ILL, "it drains"),
    "orchestrator well": (orchestrator(), WELL, WELL, WELL, "orchestrator w-1 (pid 7) is ready: a session for 90 s"),
    "orchestrator without a broker": (
        told(orchestrator(SESSION=0), "cannot reach amqp://rabbit"),
        *(WELL, WELL, WAITS),
        "no session with the broker: cannot reach amqp://rabbit",
    ),
    "orchestrator without a database": (orchestrator(DATABASE=ago(30)), WELL, WELL, WAITS, "its database has not done"),
    "orchestrator whose duty fails": (
        told(orchestrator(), inside="duty sweep fails again and again: boom"),
        *(WELL, WELL, ILL),
        "duty sweep fails again and again: boom",
    ),
    "orchestrator in a long turn": (orchestrator(TURNED=ago(60)), WELL, WELL, ILL, "it has not moved for 60 s"),
    "orchestrator that hangs": (orchestrator(TURNED=ago(181)), ILL, ILL, ILL, "it has not moved for 181 s"),
    "orchestrator that starts": (reading("orchestrator", {}), WELL, ILL, ILL, "it is starting"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_fails_which_probe(case: str) -> None:
    item, live, started, ready, said = CASES[case]
    codes = [judge(item, probe, NOW).code for probe in (Probe.LIVE, Probe.STARTED, Probe.READY)]
    assert codes == [live, started, ready]
    line = judge(item, Probe.READY, NOW).line
    assert said in line
    assert "\n" not in line


def test_no_outage_outside_is_a_reason_to_start_anew() -> None:
    for _item, live, _started, ready, _said in CASES.values():
        assert ready != WAITS or live == WELL


# ---------------------------------------------------------------- the command
Alive = Callable[..., tuple[int, str]]


def test_the_command_says_it_in_one_line(aiki_alive: Alive) -> None:
    page = vitals.Vitals("worker", name="w-1")
    try:
        code, said = aiki_alive("worker", "--pid", str(os.getpid()))
        assert (code, said) == (1, f"aiki alive: worker w-1 (pid {os.getpid()}): it is starting\n")
        assert aiki_alive("worker", "--live", "--pid", str(os.getpid())) == (0, f"worker w-1 (pid {os.getpid()}) is live\n")
        code, said = aiki_alive("worker", "--name", "w-2", "--pid", str(os.getpid()))
        assert (code, said) == (1, "aiki alive: no worker called 'w-2' runs here; there is 'w-1'\n")
    finally:
        page.close()


def test_one_that_is_ill_is_not_hidden_by_one_that_is_well(aiki_alive: Alive, monkeypatch: pytest.MonkeyPatch) -> None:
    ill = replace(worker(SESSION=0), identity={"kind": "worker", "name": "w-2"}, pid=8)
    for order in ([worker(), ill], [ill, worker()]):
        monkeypatch.setattr(vitals, "find", lambda kind, pid, order=order: vitals.Found(list(order)))
        monkeypatch.setattr("time.monotonic_ns", lambda: NOW)
        code, said = aiki_alive("worker")
        assert code == WAITS
        assert "worker w-2 (pid 8)" in said
        assert aiki_alive("worker", "--name", "w-1")[0] == WELL


def test_who_is_not_here_is_told_where_others_are(aiki_alive: Alive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "find", lambda kind, pid: vitals.Found([], [11, 12], [13]))
    code, said = aiki_alive("orchestrator")
    assert code == ILL
    assert "no orchestrator runs here; of other containers or services there are pids 11, 12: name one with --pid" in said
    assert "pids 13 are another user's" in said


def test_usages_of_before_still_work(aiki_alive: Alive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "find", lambda kind, pid: vitals.Found([orchestrator()]))
    monkeypatch.setattr("time.monotonic_ns", lambda: NOW)
    assert aiki_alive("orchestrator", "--database", "mysql+pymysql://u:p@h/d")[0] == WELL
    assert aiki_alive("server", "--bind", "nonsense")[0] == 2


def test_the_identity_is_data(aiki_alive: Alive) -> None:
    page = vitals.Vitals("worker", name="w\x1b[31m")
    try:
        page.tell(vitals.IDENTITY, json.dumps(["no", "object"]))
        assert aiki_alive("worker", "--pid", str(os.getpid()))[0] == ILL
    finally:
        page.close()


def test_a_line_is_one_line_whatever_the_name_is(aiki_alive: Alive) -> None:
    page = vitals.Vitals("worker", name="w\x1b[31m\nworker is ready")
    try:
        code, said = aiki_alive("worker", "--live", "--pid", str(os.getpid()))
        assert (code, said) == (0, f"worker w [31m worker is ready (pid {os.getpid()}) is live\n")
    finally:
        page.close()


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"host": "127.0.0.1"},
        {"port": 80},
        {"host": 7, "port": 80},
        {"host": "127.0.0.1", "port": "80"},
        {"host": "127.0.0.1", "port": True},
        {"host": "127.0.0.1", "port": 70000},
        {"host": "127.0.0.1", "port": [80]},
    ],
)
@pytest.mark.parametrize("probe", ["--ready", "--live"])
def test_a_server_that_does_not_say_where_it_listens_is_told(aiki_alive: Alive, where: dict[str, Any], probe: str) -> None:
    page = vitals.Vitals("server", **where)
    try:
        code, said = aiki_alive("server", probe, "--pid", str(os.getpid()))
        assert code == ILL
        assert said.startswith(f"aiki alive: server (pid {os.getpid()}) does not say where it listens: its host is ")
    finally:
        page.close()


def test_a_port_that_is_none_is_a_wrong_option(aiki_alive: Alive) -> None:
    assert aiki_alive("server", "--bind", "127.0.0.1:65536")[0] == 2
