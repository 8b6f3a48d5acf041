"""What a case is told: one JSON document in the environment, which its workers inherit."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAYLOAD: Final = "x" * 20
"""The second argument of every task; the first is its number."""
CHILDREN: Final = 2
"""Worker processes that execute tasks."""
STEPS: Final = 5
"""Steps of every workflow, one after the other; none does anything."""
_VARIABLE: Final = "AIKI_BENCH"


@dataclass(frozen=True, slots=True)
class Config:
    """One case in one round.

    :ivar run: names its queues; unique.
    :ivar folder: its own, removed afterwards; holds marks, logs and figures.
    :ivar database_url: a fresh database of its own.
    :ivar broker_pid, database_pid: the servers' processes, 0 where they are not on this machine.
    """

    case: str
    run: str
    folder: str
    amqp_url: str
    database_url: str
    broker_pid: int
    database_pid: int
    tasks: int
    trips: int
    flows: int

    @property
    def marks(self) -> Path:
        """Where each process writes which tasks it completed."""
        return Path(self.folder) / "marks"

    @property
    def starts(self) -> Path:
        """Where each process writes when it began its first workflow."""
        return Path(self.folder) / "starts"

    @property
    def figures(self) -> Path:
        """The file that the case leaves."""
        return Path(self.folder) / "figures.json"

    def environment(self) -> dict[str, str]:
        """The environment of the case's process: nothing of Aiki's own settings is inherited."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIKI_")}
        aiki = {
            "AIKI_BROKER_URL": self.amqp_url,
            "AIKI_DATABASE_URL": self.database_url,
            "AIKI_PREFIX": self.run,
            _VARIABLE: json.dumps(asdict(self)),
        }
        return inherited | aiki | {"PYTHONPATH": str(ROOT)}


@functools.cache
def current() -> Config:
    """The case that this process belongs to."""
    return Config(**json.loads(os.environ[_VARIABLE]))
