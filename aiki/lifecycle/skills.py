"""What the live workers can execute, as decisions about stalled runs need to know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Skill(NamedTuple):
    """A definition that a worker can execute: (name, version) of this kind, from these queues."""

    kind: str
    queues: frozenset[str]


Skills = Mapping[tuple[str, str], Mapping[str, Skill]]
"""By (name, version), then by the id of the worker that has it."""
