"""Large values on whole systems: they run, or fail readably, and nobody's session is ended by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.system import System

MB = 1_000_000
MAX_MESSAGE = 16 * 1024 * 1024


def flow(system: System, name: str, **settings: Any) -> Any:
    return system.app("large", **settings).definitions[f"large.{name}"]


def up(system: System, concurrency: int = 2) -> None:
    system.orchestrator()
    system.worker(concurrency=concurrency, app="large")


@pytest.fixture
def embedded(make_system: Callable[..., System], tmp_path: Path) -> System:
    return make_system(f"sqlite:///{tmp_path / 'aiki.db'}", f"sqlite:///{tmp_path / 'broker.db'}")


def test_results_from_outside_are_larger_than_a_history_and_a_step_follows(embedded: System) -> None:
    up(embedded)
    assert flow(embedded, "collect").enqueue(10, MB).result(timeout=60) == [MB, 10, 10 * MB, 1]


def test_large_results_of_its_own_steps_are_fetched_in_the_replay(embedded: System) -> None:
    up(embedded, 1)
    assert flow(embedded, "build").enqueue(7, MB).result(timeout=60) == 7 * MB
