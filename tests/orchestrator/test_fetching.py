"""Where the questions of workflows are answered."""

from __future__ import annotations

from typing import cast

from aiki import messages as m
from aiki.broker import Address, Session, answers
from aiki.history import ValueKey
from aiki.messages import Report
from aiki.orchestrator.fetching import Fetching
from aiki.storage import Store

RUN = "0190" * 8


class _Values:
    def values(self, _namespace: str, _run_id: str, keys: list[ValueKey]) -> dict[ValueKey, str | None]:
        return dict.fromkeys(keys, "1")


class _Sent:
    def __init__(self) -> None:
        self.to: list[Address] = []

    def send(self, to: Address, _body: bytes) -> int:
        self.to.append(to)
        return len(self.to)


def test_an_answer_goes_where_nobody_else_can_know_that_it_goes() -> None:
    """Executors are named in commands, which all workers hear: so who asks names an address of its own."""
    fetching = Fetching(cast(Store, _Values()))
    body = {"n": 1, "k": [["s", 0, "r"]]}
    fetching.ask("blue", "w/0.1", Report(m.FETCH, RUN, 1, {**body, "at": "ab" * 16}))
    sent = _Sent()
    fetching.answer(cast(Session, sent))
    assert sent.to == [answers("ab" * 16)]
