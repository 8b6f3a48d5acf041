"""What the README shows, runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import services
from tests.cli.process import ROOT, Process, aiki, run

README = (ROOT / "README.md").read_text()
GUIDE = ROOT / "docs" / "guides" / "getting-started.md"


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_first_screen_says_what_and_how() -> None:
    first = "\n".join(README.splitlines()[:32])
    assert "make demo" in first
    assert "make test" in first
    code = [line for line in python_blocks(first)[0].splitlines() if line.strip()]
    assert len(code) <= 15


def test_the_example_runs_under_aiki_dev(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(python_blocks(README)[0])
    with Process(["-m", "aiki", "dev", "-A", "shop", "--port", str(services.free_port())], tmp_path) as dev:
        dev.wait_for_line("Ctrl-C stops everything")
        done = run(["shop.py"], tmp_path)
        assert done.returncode == 0, done.stderr
        first, last = done.stdout.splitlines()
        assert re.fullmatch(r"[0-9a-f-]{36} (queued|running|completed)", first)
        assert last == "charged 42.00 for order o-1"


def test_the_guide_runs_under_aiki_dev(tmp_path: Path) -> None:
    app, handles, many, options, *_ = python_blocks(GUIDE.read_text())
    definitions, calls = options.split("\n\n\nsettle.options", 1)
    (tmp_path / "shop.py").write_text(app + definitions)
    script = [
        "from shop import *",
        handles,
        f"handles = {many.strip()}",
        "print([handle.result() for handle in handles])",
        "settle.options" + calls,
        "same = [settle.options(reference_id='order-3').enqueue('o-3') for _ in range(2)]",
        "assert same[0] == same[1]",
        "print(settle.enqueue('o-9').result())",
    ]
    (tmp_path / "use.py").write_text("\n".join(script))
    with Process(["-m", "aiki", "dev", "-A", "shop", "--no-reload", "--port", str(services.free_port())], tmp_path) as dev:
        dev.wait_for_line("Ctrl-C stops everything")
        done = run(["use.py"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0].startswith("['charged 4200 cents for o-1', ")
        assert done.stdout.splitlines()[-1] == "None"


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


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs" / "guides").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    place = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", place.read_text()):
        if "://" not in target:
            assert (place.parent / target).exists(), target
