"""Keeping what a run logs, in the worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from aiki.context import CurrentRun, set_current_run
from aiki.worker.run_log import MAX_BYTES, MAX_RECORDS, RunLog

ONE, TWO = "0190aaaabbbb7ccc8ddd000000000001", "0190aaaabbbb7ccc8ddd000000000002"


def enter(run_id: str) -> None:
    set_current_run(CurrentRun(run_id, 1, "shop.charge", None, lambda *_: None))


@pytest.fixture
def log() -> Iterator[RunLog]:
    made = RunLog()
    logger = logging.getLogger("shop.test")
    logger.addHandler(made)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield made
    logger.removeHandler(made)
    set_current_run(None)


shop = logging.getLogger("shop.test")


def test_only_what_a_run_says_is_kept(log: RunLog) -> None:
    shop.info("outside")
    assert not log.waiting
    enter(ONE)
    shop.debug("too fine")
    assert not log.waiting
    shop.info("hello %s", "world")
    assert log.waiting
    ((number, _, level, logger, message, step),) = log.take(ONE)
    assert (number, level, logger, message, step) == (1, "info", "shop.test", "hello world", None)
    assert not log.waiting
    assert log.take(ONE) == []


def test_what_another_run_has_left_is_not_taken_for_this_one(log: RunLog) -> None:
    enter(ONE)
    shop.info("late")
    enter(TWO)
    shop.info("now")
    assert [line[4] for line in log.take(TWO)] == ["now"]


def test_it_is_bounded(log: RunLog) -> None:
    enter(ONE)
    for number in range(1000):
        shop.info("%d", number)
    lines = log.take(ONE)
    assert len(lines) == MAX_RECORDS
    assert lines[-1][4] == "999"
    for _ in range(100):
        shop.info("x" * 100_000)
    assert sum(len(line[4]) for line in log.take(ONE)) <= MAX_BYTES


def test_exceptions_and_secrets(log: RunLog) -> None:
    enter(ONE)
    try:
        raise ValueError("mysql://me:hunter22@db/")
    except ValueError:
        shop.exception("it failed")
    ((*_, message, _),) = log.take(ONE)
    assert message.startswith("it failed\nTraceback")
    assert "hunter22" not in message


def test_times_are_those_of_the_servers_clock() -> None:
    there = [7_000_000_000_000]
    made = RunLog(clock=lambda: there[0])
    enter(ONE)
    record = logging.LogRecord("shop", logging.INFO, __file__, 1, "hello", None, None)
    record.created = time.time() - 90  # a handler that comes late
    made.emit(record)
    set_current_run(None)
    ((_, logged_at, *_),) = made.take(ONE)
    assert there[0] - 120_000_000 < logged_at <= there[0] - 90_000_000


def test_a_message_that_cannot_be_made_hurts_nobody(log: RunLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    enter(ONE)
    shop.info("%d", "no number")
    shop.info("fine")
    assert [line[4] for line in log.take(ONE)] == ["fine"]
