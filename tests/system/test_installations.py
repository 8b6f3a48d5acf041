"""Two installations that meet at one broker, and one whose number of partitions changes."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from aiki import messages as m
from aiki.broker import open_broker, reports
from aiki.messages import Report, ReportList
from tests.cli.process import aiki
from tests.services import MariaServer, RabbitServer
from tests.system.system import System
from tests.waiting import wait_until

W = "f" * 32


@pytest.fixture(params=["embedded", "real"])
def pair(request: pytest.FixtureRequest, make_system: Callable[..., System], tmp_path: Path) -> tuple[System, System]:
    """Two databases, one broker, one prefix."""
    if request.param == "embedded":
        urls, broker = [f"sqlite:///{tmp_path}/{name}.db" for name in "ab"], f"sqlite:///{tmp_path}/broker.db"
    else:
        maria: MariaServer = request.getfixturevalue("maria")
        rabbit: RabbitServer = request.getfixturevalue("rabbit")
        urls, broker = [maria.create_database() for _ in "ab"], rabbit.url
    prefix = f"t{secrets.token_hex(4)}"
    first, second = (make_system(url, broker, prefix=prefix) for url in urls)
    for system in (first, second):
        system.env["AIKI_PREFIX"] = prefix
    return first, second


def test_a_second_installation_takes_nothing_and_says_so_once(pair: tuple[System, System], tmp_path: Path) -> None:
    first, second = pair
    first.orchestrator()
    first.worker(concurrency=1)
    there = first.app(prefix=first.env["AIKI_PREFIX"]).definitions["shop.noop"]
    assert there.enqueue(1).result(timeout=30) == 1
    stranger = second.orchestrator()
    wait_until(lambda: "is that of installation" in stranger.log, 30, "the second orchestrator to say what is wrong")
    owner, own = first.store.installation().id, second.store.installation().id
    assert owner in stranger.log
    assert own in stranger.log
    here = second.app(prefix=first.env["AIKI_PREFIX"]).definitions["shop.noop"]
    handle = here.enqueue(5)
    handles = [there.enqueue(number) for number in range(20)]
    assert [one.result(timeout=60) for one in handles] == list(range(20))
    assert handle.status() == "queued"
    assert stranger.log.count("is that of installation") == 1
    assert stranger.process.poll() is None
    done = aiki("doctor", cwd=tmp_path, **{key: second.env[key] for key in second.settings_given})
    assert done.returncode == 1
    assert f"it is that of installation {owner}" in done.stdout
    assert "aiki installation take-broker" in done.stdout
    assert not first.rows("SELECT 1 FROM aiki_dead_letters")


def test_the_broker_is_taken_over_when_the_database_was_made_anew(pair: tuple[System, System], tmp_path: Path) -> None:
    first, second = pair
    old = first.orchestrator()
    wait_until(lambda: "listening" in old.log, 30, "the first orchestrator")
    old.stop()
    new = second.orchestrator()
    wait_until(lambda: "is that of installation" in new.log, 30, "the second orchestrator to say what is wrong")
    given = {key: second.env[key] for key in second.settings_given}
    done = aiki("installation", "take-broker", "--yes", cwd=tmp_path, **given)
    assert done.returncode == 0, done.stderr
    second.worker(concurrency=1)
    app = second.app(prefix=second.env["AIKI_PREFIX"])
    assert app.definitions["shop.noop"].enqueue(3).result(timeout=30) == 3
    assert aiki("doctor", cwd=tmp_path, **given).returncode == 0


def test_a_report_of_an_unknown_run_is_kept(system: System) -> None:
    """As a worker sends it whose run was recorded in another database, or deleted meanwhile."""
    from tests.system.test_forged import Attacker, Key, letters

    system.orchestrator()
    attacker = Attacker(open_broker(system.settings.broker_url, prefix=system.settings.prefix))
    told = [Report(kind, secrets.token_hex(16), 1, {"ms": 1}) for kind in (m.STARTED, m.PROGRESS, m.COMPLETED)]
    from aiki.signing import sign

    attacker.send(reports(0), sign(ReportList("default", W, f"{W}/0.1", told).encode(), Key(system, "default")))
    found = letters(system, 1)
    attacker.session.close()
    assert len(found) == 1
    assert "its run is not on record" in found[0][1]


def test_fewer_partitions_leave_nothing_behind(system: System, tmp_path: Path) -> None:
    """Runs are queued over four; the number is lowered to two, and raised to six, before anybody executes them."""
    app = system.app()
    noop = app.definitions["shop.noop"]
    handles = [noop.enqueue(number) for number in range(40)]
    used = {row[0] for row in system.rows("SELECT DISTINCT partition_no FROM aiki_runs")}
    assert used == {0, 1, 2, 3}
    given = {key: system.env[key] for key in system.settings_given}
    refused = aiki("orchestrator", cwd=tmp_path, AIKI_PARTITIONS="2", **given)
    assert refused.returncode == 2
    assert "aiki installation partitions 2" in refused.stderr
    assert aiki("installation", "partitions", "2", cwd=tmp_path, **given).returncode == 0
    orchestrator = system.start("orchestrator", AIKI_PARTITIONS="2")
    system.worker(concurrency=1)
    assert [one.result(timeout=60) for one in handles] == list(range(40))
    assert "4 report partitions" in orchestrator.log
    # Raised while the orchestrator runs: it reads the new ones without a restart.
    assert aiki("installation", "partitions", "6", cwd=tmp_path, AIKI_PARTITIONS="2", **given).returncode == 0
    more = system.app()
    handles = [more.definitions["shop.noop"].enqueue(number) for number in range(40)]
    assert [one.result(timeout=60) for one in handles] == list(range(40))
    assert {row[0] for row in system.rows("SELECT DISTINCT partition_no FROM aiki_runs")} == set(range(6))
