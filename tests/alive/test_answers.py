"""A worker hears again and again that an orchestrator hears it, and says when it last did."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aiki import messages as m
from aiki import vitals
from aiki.broker import CONTROL, HEARTBEAT, open_broker
from aiki.errors import BrokerUnavailable
from aiki.messages import Control, Heartbeat
from aiki.vitals import Vitals, find
from aiki.worker.link import ASK_SECONDS, UNHEARD_SECONDS, Link
from aiki.worker.notices import Lines
from aiki.worker.options import Options
from aiki.worker.slots import Shared
from tests.orchestrator.test_loop import Stage
from tests.waiting import wait_until

REGISTRY = cast(Any, SimpleNamespace(settings=SimpleNamespace(namespace="default"), triples=list, names=[]))
WORKER = "a" * 20 + "b" * 12


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def test_an_orchestrator_answers_those_that_ask_together(stage: Stage) -> None:
    one, other, third = stage.worker(), stage.worker(), stage.worker()
    [snapshot] = [control for control in one.controls if control.kind == m.SNAPSHOT and control.fields["worker"] == one.id]
    assert snapshot.fields["hears"] == 1
    one.beat(ask=1)
    other.beat(ask=1)
    third.beat()
    stage.pass_time(4)
    heard = [control for control in third.controls if control.kind == m.HEARD]
    assert sorted(name for control in heard for name in control.fields["workers"]) == sorted([one.id[-12:], other.id[-12:]])
    stage.pass_time(10)
    assert [control for control in third.controls if control.kind == m.HEARD] == heard, "who does not ask is told nothing"


class Hand:
    """A link with a page, its clock, and a session that plays the orchestrator."""

    def __init__(self, folder: Path) -> None:
        broker = open_broker(f"sqlite:///{folder}/broker.db")
        self.session = broker.connect("hand")
        self.session.subscribe(HEARTBEAT, 100)
        self.now = 1000.0
        self.page = Vitals("worker", name="w-1")
        self.shared = Shared(1)
        self._ends = socket.socketpair()
        lines = Lines(self._ends[1])
        self.link = Link(
            WORKER, REGISTRY, Options(("app",), name="w-1"), self.shared, broker, lines, [], lambda: self.now, page=self.page
        )
        self.beats: list[Heartbeat] = []

    def until(self, condition: Callable[[], object], pass_time: float = 0.0) -> None:
        def once() -> object:
            self.now += pass_time
            self.link.turn()
            self.beats += [Heartbeat.decode(item.body) for item in self.session.receive(0.0)]
            return condition()

        wait_until(once, 30, "the link")

    def say(self, kind: str, **fields: Any) -> None:
        self.session.send(CONTROL, Control("default", kind, [], fields).encode())
        self.session.beat()

    def word(self, word: int) -> int:
        [found] = find("worker", os.getpid()).readings
        return found.words[word]

    def answer_hello(self, **more: Any) -> None:
        self.until(lambda: [beat for beat in self.beats if beat.kind == m.HELLO])
        nonce = next(beat for beat in reversed(self.beats) if beat.kind == m.HELLO).fields["nonce"]
        go = self.shared.go
        self.say(m.SNAPSHOT, worker=WORKER, nonce=nonce, **more)
        self.until(lambda: self.shared.go > go)

    def close(self) -> None:
        self.link._connection.close()
        self.session.close()
        self.page.close()
        for end in self._ends:
            end.close()


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Hand]:
    made = Hand(tmp_path)
    yield made
    made.close()


def test_a_worker_asks_and_notes_when_it_was_answered(hand: Hand) -> None:
    hand.until(lambda: hand.word(vitals.SESSION))
    assert hand.word(vitals.LINK_TURNED) > 0
    assert hand.word(vitals.HEARD) == 0
    hand.answer_hello(hears=1)
    first = hand.word(vitals.HEARD)
    assert first > 0
    assert hand.word(vitals.ANSWERS) == 1
    hand.until(lambda: [beat for beat in hand.beats if beat.fields.get("ask")], pass_time=ASK_SECONDS / 4)
    hand.say(m.HEARD, workers=["c" * 12])
    hand.say(m.HEARD, workers=["d" * 12, "b" * 12])
    hand.until(lambda: hand.word(vitals.HEARD) > first)


def test_one_that_is_not_answered_says_hello_again_and_an_older_release_answers_that(hand: Hand) -> None:
    hand.answer_hello(hears=1)
    hand.beats.clear()
    hand.until(lambda: [beat for beat in hand.beats if beat.kind == m.HELLO], pass_time=UNHEARD_SECONDS / 10)
    first = hand.word(vitals.HEARD)
    hand.answer_hello()
    assert hand.word(vitals.HEARD) > first
    assert hand.word(vitals.ANSWERS) == 0
    hand.beats.clear()
    hand.until(lambda: len([beat for beat in hand.beats if beat.kind == m.BEAT]) > 20, pass_time=UNHEARD_SECONDS / 10)
    assert not [beat for beat in hand.beats if beat.kind == m.HELLO or "ask" in beat.fields], "it is left in peace"


def test_why_there_is_no_session_is_on_the_page_without_the_password() -> None:
    class Closed:
        url, limit = "", 0

        def connect(self, name: str, timeout: float) -> Any:
            raise BrokerUnavailable("cannot reach amqp://aiki:hunter22@rabbit/: ACCESS_REFUSED")

    page = Vitals("worker")
    ends = socket.socketpair()
    link = Link(WORKER, REGISTRY, Options(("app",)), Shared(1), cast(Any, Closed()), Lines(ends[1]), [], page=page)
    link.turn()
    link.turn()
    [found] = find("worker", os.getpid()).readings
    assert "ACCESS_REFUSED" in found.texts[vitals.BROKER]
    assert "hunter22" not in found.texts[vitals.BROKER]
    assert found.words[vitals.SESSION] == 0
    page.close()
    for end in ends:
        end.close()


def test_an_orchestrator_says_how_it_does(stage: Stage) -> None:
    [orchestrator] = stage.orchestrators
    orchestrator._page = page = Vitals("orchestrator")

    def word(word: int) -> int:
        [found] = find("orchestrator", os.getpid()).readings
        return found.words[word]

    stage.pass_time(4)
    assert word(vitals.DATABASE) > 0
    assert word(vitals.SESSION) > 0

    def boom(now: float) -> None:
        raise ValueError("boom")

    orchestrator.duties._duties["index"].work = boom
    stage.pass_time(12)
    [found] = find("orchestrator", os.getpid()).readings
    assert found.texts[vitals.INSIDE] == "duty index fails again and again: ValueError: boom"
    orchestrator.disconnect()
    assert word(vitals.SESSION) == 0
    orchestrator._page = Vitals("orchestrator", seen=False)
    page.close()
