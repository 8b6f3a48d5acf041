"""The command, in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner

from aiki.cli.alive import alive


@pytest.fixture
def aiki_alive() -> Callable[..., tuple[int, str]]:
    """`aiki alive …`: its exit code, and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(alive, arguments)
        return done.exit_code, done.output

    return run
