"""Completion marks: 24 bytes that each task appends to its own process's file with one write(2). And when work began."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Final, NamedTuple

from bench.config import Config, current

_RECORD: Final = struct.Struct("<qqq")
_file = _owner = _begun = -1


class Mark(NamedTuple):
    """A completed task: its number, CLOCK_MONOTONIC in ns (one clock for all processes of the machine), its process."""

    number: int
    at: int
    pid: int


def mark(number: int) -> None:
    """Task `number` is complete. Called inside the measured tasks. A number below 0 is not measured."""
    global _file, _owner
    if number < 0:
        return
    pid = os.getpid()
    if pid != _owner:
        _file = os.open(current().marks / str(pid), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        _owner = pid
    os.write(_file, _RECORD.pack(number, time.monotonic_ns(), pid))


def begin() -> None:
    """A workflow begins: the first one of each process is noted. Called inside the measured workflows."""
    global _begun
    pid = os.getpid()
    if pid != _begun:
        (current().starts / str(pid)).write_text(str(time.monotonic_ns()))
        _begun = pid


def first_begin(folder: Path) -> int:
    """CLOCK_MONOTONIC in ns when the first workflow began; 0 if none has."""
    return min((int(text) for file in folder.iterdir() if (text := file.read_text())), default=0)


def under_way(config: Config) -> bool:
    """Whether a workflow has begun or a task has completed."""
    return first_begin(config.starts) > 0 or count(config.marks) > 0


def count(folder: Path) -> int:
    """How many marks there are."""
    return sum(file.stat().st_size for file in folder.iterdir()) // _RECORD.size


def read(folder: Path) -> list[Mark]:
    """All marks, in no order."""
    return [Mark(*fields) for file in folder.iterdir() for fields in _RECORD.iter_unpack(file.read_bytes())]
