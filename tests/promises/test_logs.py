"""What the guides say of the lines that runs log."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from aiki.context import CurrentRun, set_current_run
from aiki.worker.run_log import RunLog

RUN = "0190aaaabbbb7ccc8ddd000000000001"


@pytest.fixture
def kept() -> Iterator[RunLog]:
    made = RunLog()
    logger = logging.getLogger("shop.promises")
    logger.addHandler(made)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    set_current_run(CurrentRun(RUN, 1, "shop.charge", None, lambda *_: None))
    yield made
    logger.removeHandler(made)
    set_current_run(None)


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_lines_of_threads_are_a_runs_if_it_hands_them_the_context(kept: RunLog) -> None:
    shop = logging.getLogger("shop.promises")
    in_thread(lambda: shop.info("of nobody"))
    context = contextvars.copy_context()
    in_thread(lambda: context.run(shop.info, "of the run"))
    assert [line[4] for line in kept.take(RUN)] == ["of the run"]


def test_a_run_that_logs_nothing_leaves_nothing_to_be_reported(kept: RunLog) -> None:
    logging.getLogger("shop.promises").debug("too fine")
    assert not kept.waiting
    assert kept.take(RUN) == []
