"""Answering children that look at values which their dispatches do not carry. It changes nothing, so it may be done twice."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

from aiki.broker import Session, answers
from aiki.ceilings import FETCH_BYTES, FETCH_VALUES
from aiki.errors import MessageTooLarge
from aiki.history import ValueKey
from aiki.messages import Report, Values
from aiki.storage import Store

logger = logging.getLogger("aiki.orchestrator")

A_TURN: Final = 4 * FETCH_BYTES
"""Bytes of answers in one turn of the loop: the children that wait are many, and so are others."""
MAX_WAITING: Final = 10_000
"""Questions that are kept. One beyond this number is dropped, and its child asks again."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question of one child about its run. `at`: the address that it listens on."""

    namespace: str
    at: str
    run_id: str
    number: int
    keys: list[ValueKey]


class Fetching:
    """The questions that are not answered yet, oldest first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[Question] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, namespace: str, executor: str, report: Report) -> None:
        """Take in a `FETCH`."""
        keys = [ValueKey(*key) for key in report.body["k"][:FETCH_VALUES]]
        question = Question(namespace, report.body.get("at", executor), report.run_id, report.body["n"], keys)
        if len(self._waiting) < MAX_WAITING and question not in self._waiting:
            self._waiting.append(question)

    def clear(self) -> None:
        """The session is gone. Who still waits asks again."""
        self._waiting.clear()

    def answer(self, session: Session) -> None:
        """Answer as many as a turn allows. Raises `StorageUnavailable`, `BrokerUnavailable`."""
        sent = 0
        while self._waiting and sent < A_TURN:
            question = self._waiting.popleft()  # whatever comes of it: who waits for it asks again
            texts = self._store.values(question.namespace, question.run_id, question.keys)
            body = Values(question.namespace, question.run_id, question.number, texts).encode()
            try:
                session.send(answers(question.at), body)
            except MessageTooLarge as error:
                logger.error("run %s: a value of its history cannot be sent: %s", question.run_id, error)
                nothing: dict[ValueKey, str | None] = dict.fromkeys(texts)
                body = Values(question.namespace, question.run_id, question.number, nothing).encode()
                session.send(answers(question.at), body)
            sent += len(body)
