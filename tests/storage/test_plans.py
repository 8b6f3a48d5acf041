"""Every list, filter, count and sum at 50,000 runs in MariaDB and MySQL 9: by its index, none read whole, nothing large
sorted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aiki.filters import parse
from aiki.storage import Store, upgrade
from aiki.storage.auditing import AuditFilter
from bench.seed import seed
from tests.services import MariaServer
from tests.storage.plans import planned

FILTERS = {
    "": "ix_aiki_runs_created_at",
    "status:failed": "ix_aiki_runs_state",
    "status:failed,dead": "ix_aiki_runs_state",
    "-status:completed": "ix_aiki_runs_state",
    "status:active": "ix_aiki_runs_state",
    "name:stock.render": "ix_aiki_runs_name",
    "name:stock*": "ix_aiki_runs_name",
    "name:*end": "ix_aiki_runs_name",
    "-name:mail*": "ix_aiki_runs_created_at",
    "queue:slow": "ix_aiki_runs_queue",
    "queue:slow status:failed": "ix_aiki_runs_state",
    "name:mail.send status:dead": "ix_aiki_runs_state",
    "name:stock.render status:completed": "ix_aiki_runs_name",
    "since:1d": "ix_aiki_runs_created_at",
    "status:failed created:>3d created:<2d": "ix_aiki_runs_state",
    "kind:workflow": "ix_aiki_runs_created_at",
    "version:2": "ix_aiki_runs_created_at",
    "error:Timeout*": "ix_aiki_runs_created_at",
    "status:failed -error:Timeout*": "ix_aiki_runs_state",
    "message:*host-7*": "ix_aiki_runs_created_at",
    "attempt:>3 duration:>1h": "ix_aiki_runs_created_at",
    "reference:o-400": "PRIMARY",
    "reference:o-400*": "PRIMARY",
    "-reference:*": "ix_aiki_runs_created_at",
    "parent:{parent}": "ix_aiki_runs_parent_id",
    "id:{run}": "PRIMARY",
    "worker:bench*": "ix_aiki_runs_created_at",
    "declined": "ix_aiki_runs_created_at",
    "args.order_id:77": "ix_aiki_runs_created_at",
    "status:failed args.customer.id:42": "ix_aiki_runs_state",
    "args.order_id:>9990": "ix_aiki_runs_created_at",
}
"""Filters, and the index that the runs are found by."""


@pytest.fixture(scope="module", params=["maria", "mysql9"])
def seeded(request: pytest.FixtureRequest) -> Iterator[Store]:
    server: MariaServer = request.getfixturevalue(request.param)
    url = server.create_database()
    upgrade(url)
    store = Store(url)
    filled = Store(url, timeout=60.0)
    assert seed(filled, 50_000, tell=False) == 50_000
    filled.close()
    yield store
    store.close()
    server.drop_database(url)


@pytest.fixture(scope="module")
def names(seeded: Store) -> dict[str, str]:
    child = seeded.search(parse("parent:*"), limit=1).runs[0]
    return {"run": child.id, "parent": str(child.parent_id)}


@pytest.mark.parametrize(("text", "index"), FILTERS.items())
def test_a_filter_goes_by_its_index(seeded: Store, names: dict[str, str], text: str, index: str) -> None:
    where = parse(text.format(**names))
    with planned(seeded) as plans:
        first = seeded.search(where, limit=20)
        if first.next:
            second = seeded.search(where, limit=20, after=first.next)
            seeded.search(where, limit=20, before=second.previous)
        seeded.count(where)
    assert plans.faults() == []
    assert index in plans.keys_of("aiki_runs")


def test_overview_and_other_lists(seeded: Store, names: dict[str, str]) -> None:
    now = seeded.clock()
    with planned(seeded) as plans:
        for hours in (1, 24, 24 * 30):
            since = now - hours * 3_600_000_000
            assert seeded.throughput(since, now, 60_000_000)
            seeded.latencies(since, now)
            seeded.top_failing(since, now)
        assert seeded.state_counts()
        seeded.needs_attention()
        seeded.count_by_queue()
        seeded.failure_groups()
        seeded.dead_letters(limit=20)
        seeded.audit_log(AuditFilter(), limit=20)
        seeded.batches(limit=20)
        seeded.workers()
        seeded.webhooks()
        seeded.detail(names["parent"])
        seeded.outline(names["parent"])
        seeded.run_logs(names["parent"])
        seeded.events(names["parent"])
        for state in ("queued", "stalled", "waiting"):
            seeded.why(seeded.search(parse(f"status:{state}"), limit=1).runs[0].id)
        seeded.stale_queued("default", 0)
    assert plans.faults() == []
