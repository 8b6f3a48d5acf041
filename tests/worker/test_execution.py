"""What comes of runs, seen from outside: results, errors, limits, context."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiki import ids, messages
from aiki.messages import DispatchList
from tests.waiting import wait_until
from tests.worker.conftest import Place, StartWorker
from tests.worker.harness import NAMESPACE, Orchestrator, make


def test_results_of_every_kind(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "2")
    assert orchestrator.result(orchestrator.run("add", 2, 3)) == 5
    nothing = orchestrator.report(orchestrator.run("noop"))
    assert nothing.kind == messages.COMPLETED
    assert nothing.body.keys() == {"ms"}
    assert orchestrator.result(orchestrator.run("async_sleep", 0.01)) == "slept"


def test_a_list_of_many_runs_is_executed_and_acked(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "2")
    runs = [make("add", number, 1, partition=number % 4) for number in range(400)]
    for first in range(0, len(runs), 50):
        orchestrator.dispatch(*runs[first : first + 50])
    ended = orchestrator.ended(runs)
    assert [json.loads(ended[run.run_id].body["r"]) for run in runs] == [number + 1 for number in range(400)]
    assert len([item for item in orchestrator.reports if item.kind == messages.COMPLETED]) == 400
    wait_until(lambda: orchestrator.depth() == 0, what="the queue to be empty")


def test_a_task_sees_its_run(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1")
    run = make("who", attempt=3, ref="order-1")
    orchestrator.dispatch(run)
    seen = orchestrator.result(run)
    assert seen["id"] == ids.to_text(bytes.fromhex(run.run_id))
    assert (seen["attempt"], seen["name"], seen["ref"]) == (3, "who", "order-1")


def test_errors_are_reported_readably(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1")
    pid = orchestrator.result(orchestrator.run("who"))["pid"]
    failed = orchestrator.report(orchestrator.run("fail", "bad luck"))
    assert (failed.kind, failed.body["type"], failed.body["message"]) == (messages.FAILED, "ValueError", "bad luck")
    assert failed.body["outcome"] == "failed"
    assert failed.body["tb"].splitlines()[-1] == "ValueError: bad luck"
    assert "executor.py" not in failed.body["tb"]
    for name, kind in [
        ("sys_exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("async_exit", "SystemExit"),
        ("recurse", "RecursionError"),
        ("group", "ExceptionGroup"),
        ("unencodable", "aiki.errors.EncodeError"),
        ("raise_surrogate", "ValueError"),
    ]:
        got = orchestrator.report(orchestrator.run(name))
        assert (got.kind, got.body["type"]) == (messages.FAILED, kind), name
        json.dumps(got.body, ensure_ascii=False).encode()  # no lone surrogates
    hostile = orchestrator.report(orchestrator.run("hostile"))
    assert hostile.body["type"].endswith("Hostile")
    assert "__str__ raised SystemExit" in hostile.body["message"]
    huge = orchestrator.report(orchestrator.run("raise_huge"))
    assert len(huge.body["message"]) <= 4096 + 100
    assert len(huge.body["tb"]) <= 65536 + 100
    assert "left out" in huge.body["message"]
    unfit = orchestrator.report(orchestrator.run("add", "x", 1, 2, 3))
    assert unfit.kind == messages.CHANGED
    assert "too many positional arguments" in unfit.body["message"]
    assert orchestrator.result(orchestrator.run("who"))["pid"] == pid, "one child took all of it"


@pytest.mark.parametrize("kind", ["cycle", "object", "local", "huge", "bigint", "generator"])
def test_results_that_cannot_be_carried(kind: str, shared_child: Orchestrator) -> None:
    got = shared_child.report(shared_child.run("wild", kind))
    if kind == "bigint":
        assert got.kind == messages.COMPLETED
        return
    assert got.kind == messages.FAILED
    assert got.body["type"] == ("aiki.errors.PayloadTooLarge" if kind == "huge" else "aiki.errors.EncodeError")
    assert got.body["message"].startswith("the work was done, and only its result is lost")
    assert "result of wild" in got.body["message"]


@pytest.mark.parametrize("kind", ["surrogate", "nan"])
def test_strange_results_that_can_be_carried(kind: str, shared_child: Orchestrator) -> None:
    assert shared_child.report(shared_child.run("wild", kind)).kind == messages.COMPLETED


@pytest.fixture
def shared_child(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> Orchestrator:
    start("-c", "1")
    return orchestrator


def test_input_that_cannot_be_decoded_fails_the_run(shared_child: Orchestrator) -> None:
    for text in ("{broken", "[1]", '[[],{"$aiki":"int","v":{}}]', '[{"$aiki":"enum"},{}]'):
        run = make("add")._replace(input=text)
        shared_child.dispatch(run)
        got = shared_child.report(run)
        assert (got.kind, got.body["type"]) == (messages.FAILED, "aiki.errors.DecodeError"), text


def test_input_that_another_release_may_read_is_no_failure(shared_child: Orchestrator) -> None:
    run = make("add")._replace(input='[[],{"a":{"$aiki":"dataclass","t":"nowhere:X","v":{}},"b":1}]')
    shared_child.dispatch(run)
    got = shared_child.report(run)
    assert got.kind == messages.CHANGED
    assert "class nowhere:X occurs in no definition here" in got.body["message"]


def test_retries(shared_child: Orchestrator) -> None:
    first = shared_child.report(shared_child.run("fail_retry"))
    assert (first.kind, first.body["delay"], first.body["outcome"]) == (messages.RETRY, 7.0, "retried")
    last = shared_child.report(shared_child.run("fail_retry", attempt=3))
    assert last.kind == messages.FAILED
    overridden = shared_child.report(shared_child.run("fail", rp={"max_attempts": 2, "delay": 1.5}))
    assert (overridden.kind, overridden.body["delay"]) == (messages.RETRY, 1.5)
    later = shared_child.report(shared_child.run("later"))
    assert (later.kind, later.body["delay"], later.body["asked"]) == (messages.RETRY, 12.5, 1)


def test_soft_limits(shared_child: Orchestrator) -> None:
    got = shared_child.report(shared_child.run("soft", 30))
    assert (got.kind, got.body["type"]) == (messages.FAILED, "aiki.errors.SoftTimeLimitExceeded")
    assert got.body["outcome"] == "timed_out"
    assert 300 <= got.body["ms"] < 2000
    assert "gate.py" not in got.body["tb"]
    got = shared_child.report(shared_child.run("soft_async", 30))
    assert (got.kind, got.body["type"]) == (messages.FAILED, "aiki.errors.SoftTimeLimitExceeded")
    got = shared_child.report(shared_child.run("soft_retry", 30))
    assert (got.kind, got.body["delay"]) == (messages.RETRY, 1.0)
    assert shared_child.result(shared_child.run("soft_caught", 30)) == "cleaned up"
    got = shared_child.report(shared_child.run("sleep", 30, sl=0.2))
    assert got.body["type"] == "aiki.errors.SoftTimeLimitExceeded"
    assert shared_child.result(shared_child.run("sleep", 0.5)) == "slept", "the limit hits none of the next"


def test_hard_limits(shared_child: Orchestrator) -> None:
    got = shared_child.report(shared_child.run("hard", 30))
    assert (got.kind, got.body["type"]) == (messages.FAILED, "aiki.errors.TimeLimitExceeded")
    assert (got.body["outcome"], got.body["signal"]) == ("timed_out", "SIGKILL")
    got = shared_child.report(shared_child.run("hard_retry", 30))
    assert (got.kind, got.body["delay"]) == (messages.RETRY, 3.0)
    got = shared_child.report(shared_child.run("hold_gil", tl=0.4))
    assert got.body["type"] == "aiki.errors.TimeLimitExceeded", "even where no signal handler can run"


def test_limits_of_the_worker_hold_for_tasks_without(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1", "--soft-time-limit", "0.3", "--time-limit", "1")
    assert orchestrator.report(orchestrator.run("sleep", 30)).body["type"] == "aiki.errors.SoftTimeLimitExceeded"
    assert orchestrator.report(orchestrator.run("hold_gil")).body["type"] == "aiki.errors.TimeLimitExceeded"


def test_progress_is_sent_while_the_task_runs(shared_child: Orchestrator, tmp_path: Path) -> None:
    run = shared_child.run("progress", str(tmp_path / "go"))
    first = shared_child.report(run, messages.PROGRESS)
    assert first.body == {"p": 0.25, "m": "a quarter"}
    (tmp_path / "go").touch()
    shared_child.report(run)
    assert shared_child.kinds(run)[-1] == messages.COMPLETED
    assert shared_child.of(run, messages.PROGRESS)[-1].body["p"] == 0.75


def test_what_user_code_does_to_the_process_stays_without_effect(shared_child: Orchestrator) -> None:
    pid = shared_child.result(shared_child.run("who"))["pid"]
    assert shared_child.result(shared_child.run("fork_and_return")) == 2
    assert shared_child.result(shared_child.run("fork_and_exit")) == 7
    assert shared_child.result(shared_child.run("process_terminate")) == -15
    ignored = int(shared_child.result(shared_child.run("program_ignores")), 16)
    assert not ignored & (1 << 14 | 1 << 1), "programs that tasks start heed TERM and INT"
    shared_child.report(shared_child.run("meddle"))
    # The system tells to a hundredth of a second when a thread began: meddle's is not to look like one of the next run's.
    shared_child.result(shared_child.run("sleep", 0.1))
    assert shared_child.report(shared_child.run("soft", 30)).body["type"] == "aiki.errors.SoftTimeLimitExceeded"
    assert shared_child.result(shared_child.run("async_leftover")) == 2
    assert shared_child.result(shared_child.run("async_count")) == 1, "tasks left behind do not go on in the next run"
    assert shared_child.result(shared_child.run("who"))["pid"] == pid
    assert len([item for item in shared_child.reports if item.kind == messages.COMPLETED]) >= 6


def test_a_worker_carries_no_library_of_the_server(shared_child: Orchestrator) -> None:
    loaded = shared_child.result(shared_child.run("modules"))
    assert not {"sqlalchemy", "pymysql", "flask", "marshmallow", "alembic", "urllib3"} & set(loaded)


def test_unknown_names_and_kinds(shared_child: Orchestrator) -> None:
    run = shared_child.run("nobody_knows")
    got = shared_child.report(run)
    assert (got.kind, got.body) == (messages.UNKNOWN, {"name": "nobody_knows", "version": "1"})
    assert shared_child.report(shared_child.run("noop", k="workflow")).kind == messages.UNKNOWN


def test_messages_that_cannot_be_read_go_to_the_dead_letters(
    place: Place, orchestrator: Orchestrator, start: StartWorker
) -> None:
    from aiki.broker import DEAD

    start("-c", "1")
    orchestrator.send(DispatchList(NAMESPACE, "default", [make("noop")._replace(run_id="xyz")]))
    orchestrator.send(DispatchList(NAMESPACE, "default", [make("noop")._replace(epoch=-1)]))
    assert orchestrator.report(orchestrator.run("noop")).kind == messages.COMPLETED
    session = orchestrator.broker.connect("looks at the dead letters")
    wait_until(lambda: (depth := session.depth(DEAD)) is not None and depth.ready == 2, what="two dead letters")
    session.close()


def test_several_queues(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1", "-Q", "mail,payments")
    runs = [make("add", 1, 1), make("add", 2, 2)]
    orchestrator.dispatch(runs[0], queue="payments")
    orchestrator.dispatch(runs[1], queue="mail")
    assert [orchestrator.result(run) for run in runs] == [2, 4]
