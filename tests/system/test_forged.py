"""What somebody sends who may publish to the broker and has no key, or that of another namespace: nothing of it is believed."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest

from aiki import ids
from aiki import messages as m
from aiki.broker import CONTROL, HEARTBEAT, Address, Broker, Session, open_broker, reports, work
from aiki.messages import Control, Dispatch, DispatchList, Heartbeat, Report, ReportList
from aiki.signing import Keys, sign
from tests.system.system import System, Worker
from tests.waiting import wait_until

W = "f" * 32
FORGED = {"ms": 1, "e": "json", "r": '"FORGED"'}


class Key:
    """The key of one namespace, as its workers have it."""

    required = True

    def __init__(self, system: System, namespace: str) -> None:
        self.namespace = namespace
        self._keys = system.store.installation().keys(namespace, 0)

    def keys(self, namespace: str) -> Keys | None:
        return self._keys

    def refresh(self) -> bool:
        return False


class Attacker:
    """A session of somebody who may publish what workers and servers may."""

    def __init__(self, broker: Broker) -> None:
        self.session: Session = broker.connect("attacker")

    def send(self, to: Address, body: bytes) -> None:
        number = self.session.send(to, body)

        def settled() -> bool:
            self.session.receive(0.05)
            return any(item.seq == number for item in self.session.settled())

        wait_until(settled, 20, "the message to be at the broker")


@pytest.fixture
def attacker(system: System) -> Iterator[Attacker]:
    made = Attacker(open_broker(system.settings.broker_url, prefix=system.settings.prefix))
    yield made
    made.session.close()


def letters(system: System, count: int) -> list[tuple[str, str]]:
    """The source and reason of dead letters, once there are so many."""
    sql = "SELECT source, reason FROM aiki_dead_letters ORDER BY created_at"
    wait_until(lambda: len(system.rows(sql)) >= count, 30, f"{count} dead letters")
    return [(row[0], row[1]) for row in system.rows(sql)]


def test_forged_reports(system: System, attacker: Attacker) -> None:
    system.orchestrator()
    app = system.app()
    handle = app.definitions["shop.noop"].enqueue(1)
    run_id = ids.to_bytes(handle.id).hex()
    told = Report(m.COMPLETED, run_id, 1, FORGED)
    plain = ReportList("default", W, f"{W}/0.1", [told]).encode()
    blue = ReportList("blue", W, f"{W}/0.1", [told]).encode()
    key = Key(system, "blue")
    renamed = sign(blue, key).replace(b'"ns":"blue"', b'"ns":"default"')
    both = sign(blue.replace(b'"w":', b'"ns":"default","w":'), key)
    assert ReportList.decode(both).namespace == "default"
    for body in (plain, renamed, both):
        attacker.send(reports(0), body)
    found = letters(system, 3)
    assert ("reports/0", "not believed: it is not signed") in found
    assert ("reports/0", "not believed: its signature is none of this installation's") in found
    assert handle.status() == "queued"
    system.worker(concurrency=1)
    assert handle.result(timeout=30) == 1


def test_a_forged_dispatch_is_not_executed(system: System, attacker: Attacker) -> None:
    system.orchestrator()
    worker = system.worker(concurrency=1)
    forged = Dispatch(secrets.token_hex(16), 1, "shop.marked", "1", 1, 0, "json", "[[666],{}]", {})
    body = DispatchList("default", "default", [forged]).encode()
    attacker.send(work("default", "default"), body)
    attacker.send(work("default", "default"), sign(body, Key(system, "blue")))
    found = letters(system, 2)
    assert all(source == "work/default/default" and "not believed" in reason for source, reason in found), found
    assert system.app().definitions["shop.marked"].enqueue(1).result(timeout=30) == 1
    assert set(system.starts()) == {"1"}
    assert "goes to the dead letters" in worker.log


def test_forged_heartbeats_and_hellos(system: System, attacker: Attacker) -> None:
    orchestrator = system.orchestrator()
    worker = system.worker(concurrency=1)
    false_id = secrets.token_hex(16)
    hello = {"name": "false", "host": "h", "pid": 1, "queues": ["default"], "concurrency": 1, "version": "0"}
    hello |= {"definitions": [["shop.nap", "1", "task"]], "nonce": 1}
    attacker.send(HEARTBEAT, Heartbeat("default", m.HELLO, false_id, [], hello).encode())
    attacker.send(HEARTBEAT, Heartbeat("default", m.BEAT, false_id, [], {}).encode())
    real = next(row.id for row in system.store.workers("alive"))
    attacker.send(HEARTBEAT, Heartbeat("default", m.BYE, real.replace("-", ""), [], {}).encode())
    assert system.app().definitions["shop.noop"].enqueue(1).result(timeout=30) == 1
    wait_until(lambda: "is dropped" in orchestrator.log, 20, "the orchestrator to say that it drops them")
    assert [row.name for row in system.store.workers()] == [next(iter(system.store.workers())).name]
    assert [row.id for row in system.store.workers("alive")] == [real]
    assert worker.process.poll() is None


def test_forged_commands(system: System, attacker: Attacker) -> None:
    system.orchestrator()
    worker = system.worker(concurrency=1)
    assert isinstance(worker, Worker)
    real = next(iter(system.store.workers("alive"))).id.replace("-", "")
    handle = system.app().definitions["shop.nap"].enqueue(1, 3.0)
    wait_until(lambda: handle.status() == "running", 20, "the run to be running")
    run = m.RunKey(ids.to_bytes(handle.id).hex(), 1)
    attacker.send(CONTROL, Control("default", m.DRAIN, [], {"worker": real, "at_once": 1}).encode())
    attacker.send(CONTROL, Control("default", m.CANCEL, [run], {}).encode())
    attacker.send(CONTROL, Control("default", m.QUEUES, [], {"paused": ["default"], "number": 9}).encode())
    assert handle.result(timeout=30) == 1
    assert system.app().definitions["shop.noop"].enqueue(2).result(timeout=30) == 2
    assert "is dropped" in worker.log
    assert "stopping" not in worker.log


def test_a_worker_with_its_key_as_a_setting(system: System) -> None:
    """The installation hands out no keys: a worker without waits, and says why; one with the key works."""
    orchestrator = system.orchestrator()
    installation = system.store.set_handing_out(False)
    wait_until(lambda: "listening" in orchestrator.log, 20, "the orchestrator")
    from aiki import signing

    system.env["AIKI_WORKER_KEY"] = signing.worker_key("f" * 32, secrets.token_bytes(32))
    wrong = system.worker(concurrency=1, ready=False)
    wait_until(
        lambda: "give it AIKI_WORKER_KEY" in orchestrator.log, 30, f"the orchestrator to say what is missing:\n{wrong.log}"
    )
    assert not list(system.store.workers("alive"))
    wrong.stop()
    system.env["AIKI_WORKER_KEY"] = signing.worker_key(installation.id, installation.newest_key("default"))
    system.worker(concurrency=1)
    assert system.app().definitions["shop.noop"].enqueue(1).result(timeout=30) == 1


def test_workers_come_to_know_a_new_secret_without_a_restart(system: System) -> None:
    system.orchestrator()
    worker = system.worker(concurrency=1)
    app = system.app()
    noop = app.definitions["shop.noop"]
    assert noop.enqueue(1).result(timeout=30) == 1
    before = worker.log.count("has the key of namespace")
    system.store.begin_rotation()
    wait_until(lambda: worker.log.count("has the key of namespace") > before, 30, "the worker to be told")
    assert noop.enqueue(2).result(timeout=30) == 2
    # As if the time had passed: new dispatches are signed with the new one, and later the old one is forgotten.
    db = system.store.db
    for sql in (
        "UPDATE aiki_installation SET switch_at = 1",
        "UPDATE aiki_installation SET secret = other, other = NULL, switch_at = 0",
    ):
        db.transaction(lambda connection, sql=sql: db.execute(connection, sql))  # type: ignore[misc]
        for number in range(3):
            assert noop.enqueue(number).result(timeout=30) == number
    assert not system.rows("SELECT 1 FROM aiki_dead_letters")


def test_processes_that_do_not_sign_work_while_the_record_says_so(system: System, attacker: Attacker) -> None:
    """What a worker of the last release sends is believed in an installation that was upgraded, until it is told otherwise."""
    orchestrator = system.orchestrator()
    system.store.set_signatures("accept")
    app = system.app()
    handle = app.definitions["shop.noop"].enqueue(7)
    told = Report(m.COMPLETED, ids.to_bytes(handle.id).hex(), 1, {"ms": 1, "e": "json", "r": "7"})
    body = ReportList("default", W, f"{W}/0.1", [told]).encode()
    wait_until(lambda: "listening" in orchestrator.log, 20, "the orchestrator")

    def accepted() -> bool:
        attacker.send(reports(0), body)
        return handle.status() == "completed"

    wait_until(accepted, 30, "the report to be believed")  # as soon as the orchestrator has looked at the record again
    system.store.set_signatures("require")
    assert json.loads(body)[0] == 1


def test_heartbeats_of_a_worker_that_is_gone_do_not_count_again(system: System, attacker: Attacker) -> None:
    """Somebody has read what a worker said, and goes on saying it after its death: the worker is lost all the same."""
    system.env["AIKI_LEASE"] = "5"
    orchestrator = system.orchestrator()
    attacker.session.subscribe(HEARTBEAT, 100)
    worker = system.worker(concurrency=1)
    said: list[bytes] = []

    def heard() -> bool:
        said.extend(delivery.body for delivery in attacker.session.receive(0.1))
        return sum(Heartbeat.decode(body).kind == m.HELLO for body in said) >= 2

    wait_until(heard, 30, "hellos")  # the first was not signed yet
    worker.kill_group()
    hellos = [body for body in said if Heartbeat.decode(body).kind == m.HELLO]

    def lost() -> bool:
        for body in hellos:
            attacker.send(HEARTBEAT, body)
        return "is lost" in orchestrator.log

    wait_until(lost, 40, "the worker to be lost")
    for body in hellos:
        attacker.send(HEARTBEAT, body)
    assert system.app().definitions["shop.noop"].enqueue(1).status() == "queued"
    assert not list(system.store.workers("alive"))
