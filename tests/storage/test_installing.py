"""The installation's record: made once, changed by people, the same for all."""

from __future__ import annotations

import threading
import uuid

import pytest

from aiki.codec import Payload
from aiki.errors import ConfigurationError, RunConflict
from aiki.model import NewRun
from aiki.settings import Settings
from aiki.signing import ACCEPT, REQUIRE, Installation
from aiki.storage import Store, open_store, upgrade


@pytest.fixture(params=["sqlite", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path) -> str:  # type: ignore[no-untyped-def]
    """A fresh database."""
    made = f"sqlite:///{tmp_path}/aiki.db" if request.param == "sqlite" else request.getfixturevalue("mysql_database")
    upgrade(made)
    return str(made)


def settings_of(url: str, partitions: int = 0) -> Settings:
    return Settings.load({}, database_url=url, broker_url="sqlite:////nowhere", partitions=partitions or None)


def new_runs() -> list[NewRun]:
    return [NewRun(str(uuid.uuid4()), "t", Payload("json", "[[],{}]")) for _ in range(200)]


def test_one_record_whoever_comes_first(url: str) -> None:
    found: list[Installation] = []

    def ask() -> None:
        store = Store(url, partitions=0)
        found.append(store.installation())
        store.close()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert (found[0].partitions, found[0].reading, found[0].signatures, found[0].hands_out) == (4, 4, REQUIRE, True)


def test_the_first_number_of_partitions_is_on_record_and_another_is_refused(url: str) -> None:
    open_store(settings_of(url, 3)).close()
    same, unset = open_store(settings_of(url, 3)), open_store(settings_of(url))
    assert (same.partitions, unset.partitions) == (3, 3)
    with pytest.raises(ConfigurationError, match=r"AIKI_PARTITIONS=2, and this installation has 3 on record.*partitions 2"):
        open_store(settings_of(url, 2))
    assert same.set_partitions(2).reading == 3
    assert same.set_partitions(5).reading == 5
    assert same.set_partitions(1) == unset.installation()
    for number in (0, 65):
        with pytest.raises(ConfigurationError):
            same.set_partitions(number)
    same.close()
    unset.close()


def test_an_installation_that_was_used_before_believes_messages_without_signatures(url: str) -> None:
    store = Store(url, partitions=8)
    store.create_runs(new_runs())
    assert store.installation().signatures == ACCEPT
    assert (store.installation().partitions, store.installation().reading) == (8, 8)
    store.close()


def highest(store: Store) -> int:
    sql = "SELECT MAX(partition_no) FROM aiki_runs"
    return int(store.db.read(lambda connection: store.db.execute(connection, sql).scalar()))


def test_what_was_used_before_is_seen_from_the_runs(url: str) -> None:
    store = Store(url, partitions=50)
    store.create_runs(new_runs())
    store.partitions = 0
    found = store.installation()
    assert found.partitions == found.reading == max(4, highest(store) + 1)
    store.close()


def test_fewer_than_runs_are_waiting_in(url: str) -> None:
    """Somebody lowered the number before it was on record: what waits in the partitions beyond is read again."""
    store = Store(url, partitions=50)
    store.create_runs(new_runs())
    store.partitions = 2
    found = store.installation()
    assert (found.partitions, found.reading) == (2, max(2, highest(store) + 1))
    store.close()


def test_rotation(url: str) -> None:
    now = 1_800_000_000_000_000
    store = Store(url, partitions=0, clock=lambda: now)
    before = store.installation()
    with pytest.raises(RunConflict, match="not being changed"):
        store.finish_rotation()
    during = store.begin_rotation()
    assert during.secret == before.secret
    assert during.other is not None
    assert during.switch_at == now + 120_000_000
    with pytest.raises(RunConflict, match="is being changed already"):
        store.begin_rotation()
    with pytest.raises(RunConflict, match="try again in"):
        store.finish_rotation()
    now += 241_000_000
    after = store.finish_rotation()
    assert (after.secret, after.other, after.id) == (during.other, None, before.id)
    store.close()
