"""A run that fails raises in the workflow that waits for it what a call of the same task raises, in each replay too."""

from __future__ import annotations

import json

import pytest

from aiki import StepFailed
from aiki import messages as m
from aiki.failure import Failure
from aiki.history import Arrival, History, Step
from aiki.messages import Heartbeat
from aiki.orchestrator.live import Live
from aiki.step_engine import StepEngine
from tests.deploys.fleet import Fleet, Release

SHOP = """
from aiki import StepFailed, StepTimedOut, SoftTimeLimitExceeded, gather, first

class CardDeclined(Exception):
    pass

class Picky(Exception):
    def __init__(self, one, two):
        super().__init__("picky")

@app.task
def charge(card):
    if card == "soft":
        raise SoftTimeLimitExceeded("too slow")
    if card == "picky":
        raise Picky(1, 2)
    if card == "odd":
        raise ValueError("no", card, {"a": 1})
    raise CardDeclined(card, 402)

@app.workflow
def part(run, card):
    charge(card)

met = []

def note(how, error):
    cause = error if isinstance(error, StepFailed) else error.__cause__
    met.append((how, type(error).__name__, error.args, type(cause).__name__, cause.error_type, cause.state))
    return [how, type(error).__name__, cause.traceback]

@app.workflow
def checkout(run, how, card):
    try:
        if how == "call":
            charge(card)
        elif how == "submit":
            charge.submit(card).result()
        elif how == "gather":
            gather(charge.submit(card), charge.submit(card))
        elif how == "all":
            raise gather(charge.submit(card), return_exceptions=True)[0]
        elif how == "first":
            first(charge.submit(card)).result()
        elif how == "child":
            part(card)
        elif how == "reference":
            charge.options(reference_id="one").submit(card).result()
    except CardDeclined as error:
        told = note(how, error)
    except Exception as error:
        told = note(how, error)
    run.sleep("later", 10)
    return told
"""
WAYS = ("call", "submit", "gather", "all", "first", "child", "reference")


@pytest.fixture
def shop(fleet: Fleet) -> Release:
    return fleet.load(SHOP)


def go(fleet: Fleet, shop: Release, run: str, done: set[tuple[str, int]] | None = None, *, asleep: bool = False) -> str:
    """Work on the workflow and all that it starts, until it ends; its state. It is replayed at least once more: it sleeps.

    :param done: dispatches (run, epoch) that were worked on before.
    :param asleep: until it sleeps.
    """
    done = set() if done is None else done
    for _ in range(20):
        if asleep and shop.module.met:
            break
        fresh = [each for each, dispatch in fleet.bench.out.items() if (each, dispatch.epoch) not in done]
        if not fresh and (due := fleet.bench.delivery(run)) is not None and fleet.bench.state(run) == "waiting":
            fleet.bench.clock.now = due
            fleet.bench.sweep()
            continue
        for each in fresh:
            done.add((each, fleet.bench.out[each].epoch))
            fleet.work(shop, each)
        if fleet.bench.state(run) in ("completed", "failed", "stalled"):
            break
    return fleet.bench.state(run)


@pytest.mark.parametrize("how", WAYS)
def test_its_class_is_caught_with_its_traceback(fleet: Fleet, shop: Release, how: str) -> None:
    run = fleet.enqueue(shop, "checkout", how, "4000")
    assert go(fleet, shop, run) == "completed", fleet.told(run)
    met = shop.module.met
    assert len(met) >= 2  # the first time, and in a replay
    assert set(map(str, met)) == {
        str((how, "CardDeclined", ("4000", 402), "StepFailed", "released_shop.CardDeclined", "failed"))
    }
    told = fleet.result(shop, run)
    assert told[:2] == [how, "CardDeclined"]
    assert "in charge" in told[2]
    assert "released_shop.CardDeclined: ('4000', 402)" in told[2]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    ("card", "kind", "cause"),
    [("soft", "StepTimedOut", "StepTimedOut"), ("picky", "StepFailed", "StepFailed"), ("odd", "ValueError", "StepFailed")],
)
def test_other_errors_are_the_same_too(fleet: Fleet, shop: Release, how: str, card: str, kind: str, cause: str) -> None:
    run = fleet.enqueue(shop, "checkout", how, card)
    assert go(fleet, shop, run) == "completed", fleet.told(run)
    if (how, card) == ("child", "soft"):
        kind = cause = "StepFailed"  # it was the child's step that ran into its limit, and not the child
    assert {(each[1], each[3]) for each in shop.module.met} == {(kind, cause)}
    assert "in charge" in fleet.result(shop, run)[2]


def test_the_end_of_a_run_that_has_failed_before_tells_its_error(fleet: Fleet, shop: Release) -> None:
    first = fleet.send(shop, shop.charge.options(reference_id="one")._new_run(("4000",), {}))
    assert fleet.work(shop, first) == "failed"
    run = fleet.enqueue(shop, "checkout", "reference", "4000")
    assert go(fleet, shop, run) == "completed", fleet.told(run)
    assert fleet.result(shop, run)[:2] == ["reference", "CardDeclined"]
    assert "in charge" in fleet.result(shop, run)[2]


def test_a_run_that_fails_again_tells_its_last_error(fleet: Fleet, shop: Release) -> None:
    first = fleet.send(shop, shop.charge.options(reference_id="one")._new_run(("4000",), {}))
    assert fleet.work(shop, first) == "failed"
    fleet.bench._take(fleet.bench.store.retry_run(fleet.bench.text(first)).outgoing)
    fleet.bench.report(first, (m.STARTED, {"ms": 1}), source=shop.worker)
    fleet.bench.report(first, (m.FAILED, {"type": "OSError", "message": "down", "tb": "there", "ms": 1}), source=shop.worker)
    run = fleet.enqueue(shop, "checkout", "reference", "4000")
    assert go(fleet, shop, run) == "completed", fleet.told(run)
    assert fleet.result(shop, run) == ["reference", "StepFailed", "there"]


@pytest.mark.parametrize("arguments", [None, '["5000",402]'])
def test_what_a_former_release_left_when_it_retried_is_not_told(fleet: Fleet, shop: Release, arguments: str | None) -> None:
    first = fleet.send(shop, shop.charge.options(reference_id="one")._new_run(("4000",), {}))
    assert fleet.work(shop, first) == "failed"
    store = fleet.bench.store
    fleet.bench._take(store.retry_run(fleet.bench.text(first)).outgoing)
    left = ("default", bytes.fromhex(first), "error", "json", store.db.dialect.blob('["4000",402]'))
    columns = ("namespace", "run_id", "role", "encoding", "data")
    store.db.transaction(lambda connection: store.db.insert(connection, "aiki_payloads", columns, [left]))
    fleet.bench.report(first, (m.STARTED, {"ms": 1}), source=shop.worker)
    body = {"type": "released_shop.CardDeclined", "message": "again", "tb": "there", "ms": 1}
    body |= {} if arguments is None else {"a": arguments}
    fleet.bench.report(first, (m.FAILED, body), source=shop.worker)
    assert fleet.bench.state(first) == "failed"
    found = store.db.read(lambda connection: store.failure_of(connection, "default", bytes.fromhex(first)))
    assert found == Failure(arguments, "there").to_text()


def test_a_crash_and_a_cancel_are_told_as_before(fleet: Fleet, shop: Release) -> None:
    run = fleet.enqueue(shop, "checkout", "submit", "4000")
    fleet.work(shop, run)
    (child,) = [each for each in fleet.bench.out if each != run]
    fleet.bench.cancel(child)
    fleet.bench.stir()
    assert go(fleet, shop, run) == "completed", fleet.told(run)
    assert {(each[1], each[5]) for each in shop.module.met} == {("StepFailed", "cancelled")}


# ---------------------------------------------------------------- releases and applications
def arrived(fleet: Fleet, run: str) -> list[Arrival]:
    return [arrival for arrival in fleet.bench.history(run).arrivals if arrival.kind == "child"]


def test_ends_of_former_releases_are_met_as_they_were(fleet: Fleet, shop: Release) -> None:
    run = fleet.enqueue(shop, "checkout", "submit", "4000")
    fleet.work(shop, run)
    (child,) = [each for each in fleet.bench.out if each != run]
    fleet.work(shop, child)
    store = fleet.bench.store
    store.db.transaction(lambda c: store.db.execute(c, "UPDATE aiki_inbox SET data = NULL, encoding = NULL"))
    wire = fleet.bench.out[run].options[m.OPT_HISTORY]
    wire["in"] = [[*arrival[:5], None, None, *arrival[7:]] for arrival in wire["in"]]
    assert go(fleet, shop, run) == "completed"
    assert {each[1] for each in shop.module.met} == {"StepFailed"}
    assert fleet.result(shop, run)[2] == ""


def test_what_a_failed_run_tells_is_no_result_for_former_releases(fleet: Fleet, shop: Release) -> None:
    run = fleet.enqueue(shop, "checkout", "submit", "4000")
    fleet.work(shop, run)
    (child,) = [each for each in fleet.bench.out if each != run]
    fleet.work(shop, child)
    (arrival,) = arrived(fleet, run)
    assert (arrival.outcome, arrival.payload) == ("failed", None)
    assert arrival.failure is not None
    assert arrival.failure.arguments == '["4000",402]'
    history = json.loads(json.dumps(fleet.bench.out[run].options[m.OPT_HISTORY]))
    assert len(history["in"][0]) == 9
    assert History.from_wire(history).arrivals == [arrival]
    (step,) = [view for view in fleet.bench.store.history(fleet.bench.text(run)) if view.kind == "task"]
    assert (step.state, step.result, step.error_type) == ("failed", None, "released_shop.CardDeclined")


MOVED = (
    SHOP.replace("class CardDeclined", "class Declined")
    .replace("except CardDeclined", "except Declined")
    .replace("raise CardDeclined", "raise Declined")
)


def test_a_class_that_is_gone_where_it_was_caught_stalls_the_workflow(fleet: Fleet, shop: Release) -> None:
    run = fleet.enqueue(shop, "checkout", "submit", "4000")
    fleet.work(shop, run)
    (child,) = [each for each in fleet.bench.out if each != run]
    fleet.work(shop, child)
    fleet.work(shop, run)  # caught, and asleep
    moved = fleet.load(MOVED)
    fleet.bench.clock.now = fleet.bench.delivery(run) or 0
    fleet.bench.sweep()
    assert fleet.work(moved, run) == "stalled"
    assert "released_shop.CardDeclined" in fleet.told(run)
    assert fleet.deploy(shop, run) == "completed"


def test_a_class_that_never_was_here_is_told_as_text_for_good(fleet: Fleet, shop: Release) -> None:
    """The task is executed by another application, whose exceptions this one does not have."""
    run = fleet.enqueue(shop, "checkout", "submit", "4000")
    fleet.work(shop, run)
    (child,) = [each for each in fleet.bench.out if each != run]
    fleet.work(shop, child)
    elsewhere = fleet.load(MOVED)
    assert fleet.work(elsewhere, run) == "waiting", fleet.told(run)
    fleet.bench.clock.now = fleet.bench.delivery(run) or 0
    fleet.bench.sweep()
    assert fleet.work(shop, run) == "completed", fleet.told(run)  # this release has it; it is met as it was
    assert [each[1] for each in elsewhere.module.met + shop.module.met] == ["StepFailed", "StepFailed"]


def test_a_long_traceback_is_told_without_its_beginning() -> None:
    told = Failure("[]", "x" * 100_000 + "the end").to_text()
    assert len(told) < 20_000
    assert Failure.from_text(told).traceback.endswith("the end")
    for text in ("", "[]", "null", '{"a": 1, "tb": []}', "[" * 100_000):
        assert Failure.from_text(text) == Failure()


# ---------------------------------------------------------------- releases side by side
def met_by_a_former_release(engine: StepEngine, step: Step, end: Arrival) -> tuple[Exception, list[int]]:
    """What its workers raise, who do not look at what is told."""
    return StepFailed(step.name, end.error_type or end.outcome, end.error_message or "", "", end.outcome), [step.ordinal]


@pytest.mark.parametrize("how", ["submit", "gather", "all", "first", "child", "reference"])
def test_what_a_worker_of_a_former_release_has_met_is_met_so_after_the_upgrade(
    fleet: Fleet, shop: Release, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fleet.enqueue(shop, "checkout", how, "4000")
    with monkeypatch.context() as former:
        former.setattr(StepEngine, "error_of_run", met_by_a_former_release)
        done: set[tuple[str, int]] = set()
        assert go(fleet, shop, run, done, asleep=True) == "waiting"
    assert go(fleet, shop, run, done) == "completed", fleet.told(run)
    assert len(shop.module.met) >= 2
    assert set(map(str, shop.module.met)) == {str(shop.module.met[0])}
    assert (shop.module.met[0][1], fleet.result(shop, run)[2]) == ("StepFailed", "")


def test_nothing_is_told_while_a_worker_of_a_former_release_is_there(fleet: Fleet, shop: Release) -> None:
    fleet.bench.store.read_failures = lambda namespace: namespace != "default"
    for how in ("submit", "reference"):
        run = fleet.enqueue(shop, "checkout", how, "4000")
        assert go(fleet, shop, run) == "completed", fleet.told(run)
        assert [arrival.failure for arrival in arrived(fleet, run)] == [None]
        assert fleet.result(shop, run) == [how, "StepFailed", ""]


def test_an_orchestrator_knows_from_hellos_who_reads_failures() -> None:
    live = Live(30)
    live.listen(0)
    live.know("default", "a" * 32, [], [], 0)
    assert live.read_failures("default"), "one that has said nothing yet"
    live.hear(Heartbeat("default", m.HELLO, "a" * 32, [], {"can": [m.CAN_FETCH, m.CAN_READ_FAILURES]}), 1)
    assert live.read_failures("default")
    live.hear(Heartbeat("default", m.HELLO, "b" * 32, [], {"can": [m.CAN_FETCH]}), 1)
    assert not live.read_failures("default")
    assert live.read_failures("other")
    live.leave("b" * 32)
    assert live.read_failures("default")


BOTH = """
@app.workflow
def both(run):
    try:
        gather(charge.submit("one"), charge.submit("two"))
    except CardDeclined as error:
        if error.args[0] == "two":
            return "two was declined"
        raise
"""


def test_a_retry_forgets_how_the_error_was_met_that_it_goes_on_from(fleet: Fleet) -> None:
    shop = fleet.load(SHOP + BOTH)
    run = fleet.enqueue(shop, "both")
    fleet.work(shop, run)
    one, two = (each for each in fleet.bench.out if each != run)
    fleet.work(shop, one)
    assert fleet.work(shop, run) == "failed"
    fleet.work(shop, two)
    fleet.bench._take(fleet.bench.store.retry_run(fleet.bench.text(run)).outgoing)
    fleet.bench.stir()
    assert fleet.bench.state(one) == "queued"
    fleet.bench.report(one, (m.COMPLETED, {"ms": 1}), source=shop.worker)
    fleet.bench.stir()
    assert fleet.work(shop, run) == "completed", fleet.told(run)
    assert fleet.result(shop, run) == "two was declined"
