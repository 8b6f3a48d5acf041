"""The identity of a child process, and its standard input."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from aiki.worker.strays import Mark


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a child. `worker` is the worker incarnation's id; `wake` an eventfd that wakes the child when others
    write to it; `mark` identifies the processes that it starts."""

    worker: str
    slot: int
    incarnation: int
    wake: int
    mark: Mark

    @property
    def executor(self) -> str:
        """How reports name this child."""
        return f"{self.worker}/{self.slot}.{self.incarnation}"


def prepare_standard_streams() -> None:
    """Give the child a standard input that is not a terminal."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  it lives as long as the process
