"""One run in memory a test."""

from __future__ import annotations

import pytest

from tests.replay.host import World


@pytest.fixture
def world() -> World:
    return World()
