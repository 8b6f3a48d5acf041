"""The READMEs of the projects in `examples/`: their commands are run as they stand, on the embedded default.

* ```` ```sh run ````: run to the end, line by line; the `text` below is what they print.
* ```` ```sh run until ````: repeated until it prints that.
* ```` ```sh start ````: goes on in another terminal.
"""

from __future__ import annotations

import shlex
from importlib.metadata import version
from pathlib import Path

import pytest

from tests import services
from tests.cli.process import ROOT
from tests.docs.blocks import Block, agrees, blocks_of
from tests.examples.project import Project
from tests.waiting import wait_until

PROJECTS = ("django_shop", "flask_shop")


def words(line: str, port: int) -> list[str]:
    """A command, with the site at that port."""
    split = shlex.split(line.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("--port 8000", f"--port {port}"))
    return [*split, str(port), "--noreload"] if split[-1] == "runserver" else split


def run(project: Project, block: Block) -> None:
    def printed() -> str:
        return "".join(project.run(*words(line, project.port)) for line in block.code.splitlines())

    if "until" in block:
        wait_until(lambda: agrees(block.prints or "", printed()), 60, f"{block.where} to print {block.prints!r}")
    else:
        found = printed()
        assert agrees(block.prints or "…", found), f"{block.where} prints:\n{found}"


@pytest.mark.parametrize("name", PROJECTS)
def test_its_commands_run(name: str, tmp_path: Path) -> None:
    with Project(name, tmp_path, AIKI_DEV_PORT=str(services.free_port())) as project:
        for block in blocks_of(project.folder / "README.md"):
            if "run" in block:
                run(project, block)
            elif "start" in block:
                process = project.start(*words(block.code.strip(), project.port))
                if "aiki dev" in block.code:
                    process.wait_for_line("Ctrl-C stops everything", 90)
                    workers = process
                else:
                    project.wait_for_site()
        assert "Traceback" not in workers.text
        assert "left connections open" not in workers.text


@pytest.mark.parametrize("name", PROJECTS)
def test_what_it_requires_is_what_these_tests_run_with(name: str) -> None:
    for line in (ROOT / "examples" / name / "requirements.txt").read_text().split():
        required, _, least = line.partition(",")[0].partition(">=")
        assert [int(n) for n in version(required).split(".")[:2]] >= [int(n) for n in least.split(".")]


@pytest.mark.parametrize(("guide", "name"), [("django", "django_shop"), ("flask", "flask_shop")])
def test_the_guides_commands_are_among_those_of_the_readme(guide: str, name: str) -> None:
    def commands(page: Path) -> set[str]:
        return {line for block in blocks_of(page) if block.language == "sh" for line in block.code.splitlines()}

    assert commands(ROOT / "docs" / "guides" / f"{guide}.md") <= commands(ROOT / "examples" / name / "README.md")
