"""After many ends of many kinds, of tasks that have started processes of many kinds, `ps` shows nothing of them."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiki import messages
from tests.scale import scaled
from tests.waiting import wait_until
from tests.worker.conftest import Place, StartWorker
from tests.worker.harness import Orchestrator, Worker, key, make
from tests.worker.trees_app import ENDS, KINDS

APP = "tests.worker.trees_app"
ROUNDS = scaled(1, 9)
KINDS_EACH = scaled(3, len(KINDS))
LIMIT = scaled(2.0, 8.0)
"""Seconds. On a slow machine it comes while processes are still being started, which is as good."""
AT_ONCE = 2
EXPECTED = {"hard limit": messages.FAILED, "soft limit": messages.FAILED, "cancel": messages.CANCELLED}


def processes_in(directory: Path) -> list[int]:
    """All processes that have this directory, or one in it, as theirs."""
    return [pid for pid, there in all_places() if there == str(directory) or there.startswith(f"{directory}/")]


def all_places() -> Iterator[tuple[int, str]]:
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            yield int(name), os.readlink(f"/proc/{name}/cwd")
        except OSError:
            continue  # gone, or a zombie


class Attempt:
    """An attempt with a directory of its own, which all that it starts is in.

    :param how: how it is to end; empty for not at all.
    """

    def __init__(self, orchestrator: Orchestrator, directory: Path, kinds: list[str], how: str) -> None:
        self.how = how
        self.directory = directory
        self._orchestrator = orchestrator
        self._kinds = kinds
        directory.mkdir()
        self._dispatch()

    def _dispatch(self) -> None:
        limits: dict[str, float] = {}
        if self.how == "hard limit":
            limits = {messages.OPT_TIME_LIMIT: LIMIT}
        elif self.how == "soft limit":
            limits = {messages.OPT_SOFT_TIME_LIMIT: LIMIT}
        self.run = make("live_and_die", str(self.directory), self._kinds, self.how, **limits)
        self._orchestrator.dispatch(self.run)

    def ended(self) -> str:
        """The kind of the report that ended it; empty if there is none. What only waited beside another is dispatched anew."""
        kinds = [got.kind for got in self._orchestrator.of(self.run, *messages.ENDS_DISPATCH)]
        told = [kind for kind in kinds if kind != messages.INQUIRE]
        if kinds and not told and not (self.directory / "ready").exists():
            self._dispatch()
        return told[0] if told else ""

    def started(self) -> int:
        """Wait until all is started; the id of the process that executes it."""
        ready = self.directory / "ready"
        wait_until(lambda: not self.ended() and ready.exists() and ready.read_text(), 60, f"{ready} to be there")
        return int(ready.read_text())

    def finish(self) -> None:
        """Have it end, and see that it does so as it is to, and leaves nothing."""
        child = self.started() if self.how in ("cancel", "killed") else 0
        if self.how == "cancel":
            self._orchestrator.control(messages.CANCEL, [key(self.run)])
        elif self.how == "killed":
            os.kill(child, signal.SIGKILL)
        wait_until(self.ended, 90, f"{self.how} to end it")
        assert self.ended() == EXPECTED.get(self.how, messages.CRASHED), self.how
        gone(self.directory)


def gone(directory: Path) -> None:
    wait_until(lambda: not processes_in(directory), 30, f"what is in {directory} to be gone: {processes_in(directory)}")


def end_worker(worker: Worker, how: str) -> None:
    if how == "supervisor killed":
        worker.signal(signal.SIGKILL)
        worker.wait()
        return
    worker.signal(signal.SIGTERM)
    if how == "stopped at once":
        worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 3


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        ("drained", scaled(("hard limit", "exit"), ENDS)),
        ("supervisor killed", scaled(("cancel", "segfault"), ENDS)),
        ("stopped at once", scaled(("soft limit", "killed"), ENDS)),
    ],
)
def test_nothing_is_left(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path, how: str, ends: tuple[str, ...]
) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    count = itertools.count()

    def begin(how: str) -> Attempt:
        kinds = ["hidden", *chance.sample([kind for kind in KINDS if kind != "hidden"], KINDS_EACH - 1)]
        return Attempt(orchestrator, tmp_path / f"{next(count)}", kinds, how)

    for _ in range(ROUNDS):
        worker = start("-c", f"{AT_ONCE + 1}", "--drain-timeout", "1", app=APP)
        bystander = begin("")
        bystander.started()
        for some in (ends[at : at + AT_ONCE] for at in range(0, len(ends), AT_ONCE)):
            for attempt in [begin(end) for end in some]:
                attempt.finish()
        running = [begin("") for _ in range(AT_ONCE)]
        for attempt in running:
            attempt.started()
        assert processes_in(bystander.directory), "what another child has started is left alone"
        assert not bystander.ended()
        end_worker(worker, how)
        for attempt in (bystander, *running):
            gone(attempt.directory)
    assert not processes_in(tmp_path)
