"""What a child returns without having begun it: in which lists, and what travels alone."""

from __future__ import annotations

from typing import Any, cast

from aiki import messages
from aiki.broker import work
from aiki.broker.base import Delivery
from aiki.messages import Dispatch, DispatchList
from aiki.worker.inbox import Inbox
from aiki.worker.ledger import Message
from tests.worker.harness import NAMESPACE, make


class Ledger:
    """Remembers what is given back: the queue, and how often each run's message stands for it."""

    def __init__(self) -> None:
        self.lists: list[list[Dispatch]] = []
        self.messages: list[list[Message]] = []

    def give_back(self, queue: str, dispatches: list[Dispatch], found: list[Message]) -> None:
        assert queue == "default"
        self.lists.append(dispatches)
        self.messages.append(found)


class Definition:
    version = "1"
    kind = "task"


class Registry:
    def __init__(self) -> None:
        self.definitions = {("noop", "1"): Definition()}


def filled(*lists: list[Dispatch]) -> tuple[Inbox, Ledger]:
    ledger = Ledger()
    inbox = Inbox(cast(Any, Registry()), NAMESPACE, cast(Any, ledger), cast(Any, None))
    for number, runs in enumerate(lists):
        body = DispatchList(NAMESPACE, "default", runs).encode()
        inbox.accept(Delivery(work(NAMESPACE, "default"), body, False, number + 1))
    return inbox, ledger


def noops(count: int, **options: Any) -> list[Dispatch]:
    return [make("noop", n, **options) for n in range(count)]


def test_the_newest_go_back_one_by_one_unless_it_is_said_how_many_may_travel_together() -> None:
    runs = noops(7)
    inbox, ledger = filled(runs)
    inbox.give_back(keep=5)
    assert ledger.lists == [[runs[5]], [runs[6]]]
    assert [job.dispatch for job in inbox.jobs] == runs[:5]
    inbox.give_back(together=3)
    assert ledger.lists[2:] == [runs[:3], runs[3:5]]
    assert not inbox.jobs
    assert {id(message) for found in ledger.messages for message in found} == {id(ledger.messages[0][0])}


def test_a_run_that_may_kill_its_process_travels_alone() -> None:
    [first, second, third], suspects = noops(3), noops(1, **{messages.OPT_BIND_FIRST: 1})
    inbox, ledger = filled([first], suspects, [second, third])
    inbox.give_back(together=50)
    assert sorted(ledger.lists, key=len) == [suspects, [first, second, third]]


def test_what_is_passed_on_goes_in_the_lists_in_which_it_came() -> None:
    lists = [noops(3), noops(1), noops(2)]
    inbox, ledger = filled(*lists)
    inbox.pass_on()
    assert ledger.lists == lists
    assert not inbox.jobs
