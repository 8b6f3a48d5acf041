"""Run ids: UUIDs of version 7 that rise, in every thread and over forks."""

from __future__ import annotations

import os
import threading
import time
import uuid

import pytest

from aiki import ids


def test_they_are_uuids_of_version_7_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_last", 0)  # another test of this process may have set the clock ahead
    made = ids.new_id()
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert abs((made.int >> 80) - time.time() * 1000) < 60_000


def test_they_rise_and_differ_in_all_threads() -> None:
    got: list[list[uuid.UUID]] = [[] for _ in range(4)]

    def make(mine: list[uuid.UUID]) -> None:
        mine.extend(ids.new_id() for _ in range(5000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in got)
    every = {made for mine in got for made in mine}
    assert len(every) == 20_000
    assert {(made.version, made.variant) for made in every} == {(7, uuid.RFC_4122)}


def test_a_clock_that_goes_back_does_not_make_them_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids.new_id()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    second = ids.new_id()
    assert second > first
    assert second.version == 7


def test_a_forked_child_makes_others() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"".join(ids.new_id().bytes for _ in range(100)))
        os._exit(0)
    os.waitpid(pid, 0)
    theirs = os.read(read, 1600)
    ours = {ids.new_id().bytes for _ in range(100)}
    assert len(theirs) == 1600
    assert not ours & {theirs[at : at + 16] for at in range(0, 1600, 16)}
    os.close(read)
    os.close(write)


def test_text_and_bytes() -> None:
    made = ids.new_id()
    assert ids.to_bytes(str(made)) == ids.to_bytes(made.hex) == made.bytes
    assert ids.to_text(made.bytes) == str(made)
    assert ids.parse_id(str(made)) == ids.parse_id(made.hex.upper()) == made
    for wrong in ("", "order-1", "z" * 32, None, 7, b"x"):
        assert ids.parse_id(wrong) is None  # type: ignore[arg-type]
    for wrong in ("", "order-1", "z" * 32, "-" * 32, "é" * 32):
        with pytest.raises(ValueError):
            ids.to_bytes(wrong)
