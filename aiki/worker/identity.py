"""Who a child is, and what it has instead of a terminal."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from aiki.worker.strays import Mark


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a child is. `worker` is the worker incarnation's id; `wake` an eventfd that others write to have it look up;
    `mark` tells the processes that it starts."""

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
    """Give the child a standard input that is nobody's terminal."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  it lives as long as the process
