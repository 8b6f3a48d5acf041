"""The page in which a process says how it does: what is written is read, by whoever may, and of the right process alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiki import vitals
from aiki.vitals import Vitals, find


@pytest.fixture
def page() -> Iterator[Vitals]:
    made = Vitals("worker", name="w-1")
    yield made
    made.close()


def reading() -> vitals.Reading:
    [found] = find("worker", os.getpid()).readings
    return found


def test_what_is_written_is_read(page: Vitals) -> None:
    page.put(vitals.CHILDREN, 3)
    page.now(vitals.TURNED)
    page.tell(vitals.INSIDE, "child 2 is ill — very")
    found = reading()
    assert (found.kind, found.name, found.pid) == ("worker", "w-1", os.getpid())
    assert found.words[vitals.CHILDREN] == 3
    assert found.words[vitals.TURNED] > 0
    assert found.texts[vitals.INSIDE] == "child 2 is ill — very"
    page.tell(vitals.INSIDE, "")
    assert reading().texts[vitals.INSIDE] == ""


def test_since_is_the_first_time(page: Vitals) -> None:
    page.since(vitals.SESSION, holds=True)
    first = reading().words[vitals.SESSION]
    page.since(vitals.SESSION, holds=True)
    assert reading().words[vitals.SESSION] == first > 0
    page.since(vitals.SESSION, holds=False)
    assert reading().words[vitals.SESSION] == 0


def test_what_is_too_long_is_cut_and_what_is_half_written_is_not_read(page: Vitals) -> None:
    page.tell(vitals.BROKER, "x" * 5000)
    assert set(reading().texts[vitals.BROKER]) == {"x"}
    page.tell(vitals.BROKER, "é" * 5000)
    assert reading().texts[vitals.BROKER].startswith("éé")
    page.tell(vitals.BROKER, "bad \ud800 surrogate\nand lines")
    assert "surrogate" in reading().texts[vitals.BROKER]


def test_a_page_of_another_kind_or_a_closed_one_is_not_found() -> None:
    page = Vitals("worker")
    assert find("server", os.getpid()).readings == []
    page.close()
    assert find("worker", os.getpid()).readings == []


def test_what_a_process_has_only_inherited_is_not_its_own(page: Vitals) -> None:
    page.tell(vitals.IDENTITY, '{"kind": "worker", "pid": 1}')
    assert find("worker", os.getpid()).readings == []


@pytest.mark.parametrize(
    "data", [b"", b"x" * 8192, b"aiki vitals v1\0\0" + b"\xff" * 9000, b"aiki vitals v1\0\0" + bytes(9000)]
)
def test_what_is_no_page_is_none(data: bytes) -> None:
    assert vitals.read(data, 1) is None


def test_a_page_that_is_not_seen_needs_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    made = Vitals("worker", seen=False)
    made.now(vitals.TURNED)
    assert set(os.listdir("/proc/self/fd")) == before


def test_one_process_is_enough_to_be_asked_of_all(page: Vitals) -> None:
    assert os.getpid() in [item.pid for item in find("worker").readings]


def test_where_memory_has_no_descriptors_the_process_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refused)
    made = Vitals("worker")
    made.now(vitals.TURNED)
    made.close()
    assert find("worker", os.getpid()).readings == []


# ---------------------------------------------------------------- who is believed
def test_another_users_process_is_believed_only_if_it_is_named(page: Vitals, monkeypatch: pytest.MonkeyPatch) -> None:
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    monkeypatch.setattr(vitals, "_looks_like", lambda pid, _kind: pid == os.getpid())
    found = find("worker")
    assert (found.readings, found.closed) == ([], [os.getpid()])
    assert reading().name == "w-1"


@pytest.mark.parametrize("ids", ["0 {0} {0} {0}", "{0} 0 {0} {0}", "{0} {0} 0 {0}", "{0} {0} {0} 0", ""])
def test_a_process_that_has_changed_its_user_is_not_our_own(ids: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    us = 1000
    monkeypatch.setattr(os, "geteuid", lambda: us)
    status = tmp_path / "status"
    monkeypatch.setattr(vitals, "open", lambda _path, mode: status.open(mode), raising=False)
    status.write_text(f"Name:\tpython\nUid:\t{ids.format(us)}\nGid:\t0 0 0 0\n")
    assert not vitals._is_own(1)
    status.write_text(f"Name:\tpython\nUid:\t{us} {us} {us} {us}\n")
    assert vitals._is_own(1)


def test_a_pipe_that_is_called_like_a_page_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)
    monkeypatch.setattr(vitals, "_LINK", str(pipe))
    try:
        assert find("worker", os.getpid()).readings == []
    finally:
        os.close(held)


def test_an_identity_that_is_nested_without_end_is_none(page: Vitals) -> None:
    page.tell(vitals.IDENTITY, "[" * 1000)
    assert find("worker", os.getpid()).readings == []
