"""What the README shows, runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests import services
from tests.cli.process import ROOT, Process, aiki, run

README = (ROOT / "README.md").read_text()


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_first_screen_says_what_and_how() -> None:
    first = "\n".join(README.splitlines()[:32])
    assert "make demo" in first
    assert "make test" in first
    code = [line for line in python_blocks(first)[0].splitlines() if line.strip()]
    assert len(code) <= 15


def test_the_example_runs_under_aiki_dev(tmp_path: Path) -> None:
    for name, block in zip(("shop.py", "checkout.py"), python_blocks(README), strict=True):
        (tmp_path / name).write_text(block)
        assert len([line for line in block.splitlines() if line.strip()]) <= 15
    with Process(["-m", "aiki", "dev", "-A", "checkout", "--port", str(services.free_port())], tmp_path) as dev:
        dev.wait_for_line("Ctrl-C stops everything")
        done = run(["shop.py"], tmp_path)
        assert done.returncode == 0, done.stderr
        first, last = done.stdout.splitlines()
        assert re.fullmatch(r"[0-9a-f-]{36} (queued|running|completed)", first)
        assert last == "charged 42.00 for order o-1"
        line = next(line for line in README.splitlines() if line.startswith("python -c"))
        done = run(shlex.split(line)[1:], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "['charged 9.90 for order o-2', 'lamp reserved', 'by Ada']"


def test_the_commands_run_on_rabbitmq_and_mysql(tmp_path: Path, mysql_database: str, amqp_url: str) -> None:
    (tmp_path / "shop.py").write_text(python_blocks(README)[0])
    port = services.free_port()
    prefix = {"AIKI_PREFIX": f"readme{port}"}
    both = {"AIKI_DATABASE_URL": mysql_database, "AIKI_BROKER_URL": amqp_url, **prefix}
    assert aiki("db", "upgrade", cwd=tmp_path, **both).returncode == 0
    worker = ["-c", "from aiki.cli.main import worker_main; worker_main()", "-A", "shop", "-c", "4", "-Q", "default"]
    server = ["-c", "from aiki.cli.main import server_main; server_main()", "--bind", f"127.0.0.1:{port}"]
    with (
        Process(["-m", "aiki", "orchestrator"], tmp_path, **both),
        Process(server, tmp_path, **both) as serving,
        Process(worker, tmp_path, AIKI_BROKER_URL=amqp_url, **prefix),
    ):
        serving.wait_for_line("listening on")
        for where in (both, {"AIKI_SERVER_URL": f"http://127.0.0.1:{port}"}):
            done = run(["shop.py"], tmp_path, **where)
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[-1] == "charged 42.00 for order o-1"
        assert not (tmp_path / ".aiki").exists(), "nobody fell back to the embedded default"


PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]


def anchors(page: Path) -> set[str]:
    """The names that a page's headings can be linked to by."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    place = ROOT / page
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", place.read_text()):
        if "://" not in target and "NNNN" not in target:
            there = place.parent / target if target else place
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), f"{target}#{anchor}"
