"""Every example in the guides is run: by `aiki dev` on the embedded default, and a session beside it (see `blocks.py`)."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from aiki.cli.main import aiki as root
from tests import services
from tests.cli.process import PYTHON, ROOT, Process, aiki, environment
from tests.docs.blocks import Block, agrees, blocks_of
from tests.waiting import wait_until

GUIDES = ROOT / "docs" / "guides"
PAGES = [*sorted(GUIDES.glob("*.md")), ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_HERE = [page for page in PAGES if any(block.app for block in blocks_of(page))]
NOT_RUN_HERE = {"README.md"}
"""Its examples are run by `tests/test_readme.py`."""
ENTRIES = {"aiki", "aiki-worker", "aiki-server"}


class Running:
    """`aiki dev` with the modules of all guides, as each guide begins."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.modules: dict[str, str] = {}
        for page in RUN_HERE:
            mine: dict[str, str] = {}
            for block in blocks_of(page):
                if block.app and "replace" not in block:
                    mine[block.app] = mine.get(block.app, "") + block.code + "\n\n"
            assert not mine.keys() & self.modules.keys(), f"{page.name} uses a module's name that another guide has"
            self.modules |= mine
        for name, code in self.modules.items():
            (directory / f"{name}.py").write_text(code)
        apps = [part for name in self.modules for part in ("-A", name)]
        self.process = Process(["-m", "aiki", "dev", *apps, "--port", str(services.free_port())], directory)

    def replace(self, name: str, code: str) -> None:
        """Deploy other code: the new worker is known, and the old one has stopped."""
        lines = len(self.process.lines)
        (self.directory / f"{name}.py").write_text(code)
        self.process.wait_for_line("the orchestrator knows this worker", after=lines)
        self.process.wait_for_line("supervisor: stopped", after=lines)


class Session:
    """The reader's Python session beside it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.names: dict[str, str] = {}
        self.stale: list[str] = []
        self._process = subprocess.Popen(
            [PYTHON, "-m", "tests.docs.session"],
            cwd=directory,
            env=environment(PYTHONPATH=f"{directory}:{ROOT}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def type(self, block: Block) -> None:
        """Run a block, and hold what it prints against the page."""
        if "until" in block:
            wait_until(lambda: agrees(block.prints or "", self._run(block)), 45, f"{block.where} to print {block.prints!r}")
            return
        printed = self._run(block)
        assert agrees(block.prints or "", printed), f"{block.where} prints:\n{printed}"

    def _run(self, block: Block) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"code": block.code, "where": block.where, "reload": self.stale}
        self.stale = []
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert not answer["error"], f"{block.where}: {answer['error']}"
        self.names = answer["names"]
        return str(answer["printed"])

    def command(self, block: Block) -> None:
        """Run commands of ours in a terminal."""
        printed = ""
        for line in commands(block):
            words = [self.names[word[1:]] if word.startswith("$") else word for word in line[1:]]
            done = aiki(*words, cwd=self._directory)
            assert done.returncode == 0, f"{block.where}: {done.stderr}"
            printed += done.stdout
        assert agrees(block.prints or "…", printed), f"{block.where} prints:\n{printed}"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    started = Running(tmp_path_factory.mktemp("guides"))
    with started.process as process:
        process.wait_for_line("Ctrl-C stops everything")
        yield started


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_run(page: Path, running: Running) -> None:
    session = Session(running.directory)
    try:
        for block in blocks_of(page):
            if block.app and "replace" in block:
                running.replace(block.app, block.code)
                session.stale.append(block.app)
            elif block.language == "python" and "run" in block:
                session.type(block)
            elif block.language == "sh" and "run" in block:
                session.command(block)
    except AssertionError as error:
        error.add_note(running.process.text[-6000:])
        raise
    finally:
        session.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_how_it_is_tested_and_can_be_read(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "python":
            known = block.app or block.file or "run" in block or "shown" in block or page.name in NOT_RUN_HERE
            assert known, f"{block.where}: say how this block is tested (tests/docs/blocks.py)"
            if block.file:
                whole = textwrap.dedent((ROOT / block.file).read_text())
                lines = "".join(f"\n{line.strip()}" for line in block.code.strip().splitlines())
                there = "".join(f"\n{line.strip()}" for line in whole.splitlines())
                assert f"{lines}\n" in f"{there}\n", f"{block.where}: these lines are not in {block.file}"
            compile(block.code, block.where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        elif block.language == "sh":
            for words in commands(block):
                check_command(block, words)


def commands(block: Block) -> list[list[str]]:
    """The calls of our commands in a block of shell, as words."""
    found: list[list[str]] = []
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
        lexer.whitespace_split = True
        words = list(lexer)
        while words:
            end = words.index(";") if ";" in words else len(words)
            if words[0] in ENTRIES:
                found.append(words[:end])
            words = words[end + 1 :]
    return found


def check_command(block: Block, words: list[str]) -> None:
    """Raise if a command does not exist or does not take these options. Nothing is executed."""
    command: click.Command = root
    context = None
    arguments = words[1:] if words[0] == "aiki" else [words[0].removeprefix("aiki-"), *words[1:]]
    while isinstance(command, click.Group):
        context = command.make_context(words[0], arguments[:1], parent=context, resilient_parsing=True)
        found = command.get_command(context, arguments[0])
        assert found is not None, f"{block.where}: there is no {' '.join(words)}"
        command, arguments = found, arguments[1:]
    try:
        command.make_context(words[0], arguments, parent=context)
    except click.UsageError as error:
        raise AssertionError(f"{block.where}: {' '.join(words)}: {error.message}") from None
