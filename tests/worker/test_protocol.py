"""The recovery protocol, from the worker's side: what it executes, what it inquires about, what it promises and holds."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from aiki import messages
from aiki.broker import work
from aiki.messages import DispatchList, Heartbeat
from tests.waiting import wait_until
from tests.worker.conftest import Place, StartWorker
from tests.worker.harness import NAMESPACE, Orchestrator, key, make


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def blocker(orchestrator: Orchestrator, folder: Path, name: str = "blocker") -> tuple[messages.Dispatch, Path]:
    """A run that is executing now, and the file whose existence ends it."""
    release = folder / f"{name}.release"
    run = orchestrator.run("touch_and_wait", str(folder / name), str(release))
    wait_until(lambda: (folder / name).exists(), 15, "the blocker to run")
    return run, release


def test_redelivered_is_not_executed_but_inquired_about(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    file = tmp_path / "ran"
    runs = orchestrator.dispatch(make("append", str(file), "x"), make("append", str(file), "y", partition=1))
    taker = orchestrator.broker.connect("takes and dies")
    taker.subscribe(work(NAMESPACE, "default"), 1)
    wait_until(lambda: taker.receive(0.1), what="the message to be taken")
    taker.close()
    start("-c", "1")
    for run in runs:
        got = orchestrator.report(run)
        assert (got.kind, got.body) == (messages.INQUIRE, {"why": "redelivered"})
    assert orchestrator.report(orchestrator.run("noop")).kind == messages.COMPLETED
    assert lines(file) == []
    wait_until(lambda: orchestrator.depth() == 0, what="the queue to be empty")


def test_again_is_not_executed_but_inquired_about(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    start("-c", "1")
    (run,) = orchestrator.dispatch(make("append", str(tmp_path / "ran"), "x"), again=True)
    got = orchestrator.report(run)
    assert (got.kind, got.body) == (messages.INQUIRE, {"why": "again"})
    assert lines(tmp_path / "ran") == []


def test_a_marker_is_reported_back(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1")
    orchestrator.send(DispatchList(NAMESPACE, "default", [], marker=77))
    wait_until(lambda: orchestrator.of("", messages.MARKER), what="the marker")
    got = orchestrator.of("", messages.MARKER)[0]
    assert (got.epoch, got.body) == (77, {"q": "default"})


def test_nothing_is_taken_before_an_orchestrator_answers(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker
) -> None:
    orchestrator.silent = True
    worker = start("-c", "1")
    run = orchestrator.run("noop")
    orchestrator.beat(messages.HELLO)
    orchestrator.beat(messages.HELLO)
    wait_until(lambda: "no orchestrator answers" in worker.log, what="the complaint")
    assert orchestrator.kinds(run) == []
    assert orchestrator.depth() == 1
    orchestrator.silent = False
    assert orchestrator.report(run).kind == messages.COMPLETED


def test_the_snapshot_is_heeded_before_the_first_run(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    file = tmp_path / "ran"
    revoked, kept = orchestrator.dispatch(make("append", str(file), "revoked"), make("append", str(file), "kept"))
    orchestrator.snapshot = [key(revoked)]
    start("-c", "1")
    assert orchestrator.report(kept).kind == messages.COMPLETED
    assert orchestrator.report(revoked).kind == messages.DROPPED
    assert lines(file) == ["kept"]


def test_a_prefetched_run_that_is_revoked_or_cancelled_never_begins(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    start("-c", "1")
    orchestrator.beat(messages.HELLO)
    file, release = tmp_path / "ran", tmp_path / "release"
    first = make("touch_and_wait", str(tmp_path / "running"), str(release))
    runs = [make("append", str(file), str(number)) for number in range(3)]
    orchestrator.dispatch(first, *runs)
    wait_until(lambda: (tmp_path / "running").exists(), what="the first to run")
    orchestrator.control(messages.CANCEL, [key(runs[0])])
    orchestrator.control(messages.REVOKE, [key(runs[1])])
    # An answer to a question that was asked later shows that the cancels have been heard.
    orchestrator.control(messages.ASK, [], nonce=5)
    orchestrator.beat(messages.ANSWER, lambda beat: beat.fields["nonce"] == 5)
    release.touch()
    ended = orchestrator.ended(runs)
    assert [ended[run.run_id].kind for run in runs] == [messages.DROPPED, messages.DROPPED, messages.COMPLETED]
    assert lines(file) == ["2"]


def test_ask_names_what_is_held_and_promises_the_rest(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    start("-c", "1")
    run, release = blocker(orchestrator, tmp_path)
    waiting, other = make("append", str(tmp_path / "ran"), "x"), make("append", str(tmp_path / "ran"), "other epoch", epoch=2)
    orchestrator.control(messages.ASK, [key(run), key(waiting), messages.RunKey(other.run_id, 1)], nonce=9)
    answer = orchestrator.beat(messages.ANSWER)
    assert [(item.run_id, item.epoch) for item in answer.held] == [key(run)]
    assert answer.held[0].executor.startswith(answer.worker + "/0.")
    assert answer.fields == {"nonce": 9}
    orchestrator.dispatch(waiting, other)
    release.touch()
    assert orchestrator.report(waiting).kind == messages.DROPPED
    assert orchestrator.report(other).kind == messages.COMPLETED


def test_bind_first_reports_started_before_user_code(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    start("-c", "1")
    run = make("append", str(tmp_path / "ran"), "x", bf=1)
    orchestrator.dispatch(run)
    orchestrator.report(run)
    assert orchestrator.kinds(run) == [messages.STARTED, messages.COMPLETED]
    kill = make("kill_self", bf=1)
    orchestrator.dispatch(kill)
    orchestrator.report(kill)
    assert orchestrator.kinds(kill) == [messages.STARTED, messages.CRASHED]
    assert {item.executor for item in orchestrator.of(kill)} == {orchestrator.of(kill)[0].executor}


def test_started_is_reported_only_of_what_takes_longer(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    start("-c", "1")
    assert orchestrator.report(orchestrator.run("sleep", 0.01)).kind == messages.COMPLETED
    run, release = blocker(orchestrator, tmp_path)
    started = orchestrator.report(run, messages.STARTED)
    assert started.body["ms"] >= 250
    release.touch()
    done = orchestrator.report(run)
    assert (done.executor, orchestrator.kinds(run)) == (started.executor, [messages.STARTED, messages.COMPLETED])
    assert len([item for item in orchestrator.reports if item.kind == messages.STARTED]) == 1


def test_heartbeats_tell_what_the_worker_is_and_does(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    worker = start("-c", "2", "-Q", "default,mail")
    hello = orchestrator.beat(messages.HELLO)
    assert hello.fields["name"] == "tested"
    assert hello.fields["pid"] == worker.process.pid
    assert hello.fields["queues"] == ["default", "mail"]
    assert hello.fields["concurrency"] == 2
    assert ["add", "1", "task"] in hello.fields["definitions"]
    run, release = blocker(orchestrator, tmp_path)
    beat = orchestrator.beat(messages.BEAT, lambda beat: bool(beat.held))
    assert beat.worker == hello.worker
    assert [(item.run_id, item.epoch) for item in beat.held] == [key(run)]
    assert beat.fields["digest"] == messages.definitions_digest(hello.fields["definitions"])
    children = beat.fields["children"]
    assert [child["slot"] for child in children] == [0, 1]
    busy = [child for child in children if child["run"]]
    assert [(child["run"], child["name"]) for child in busy] == [(run.run_id, "touch_and_wait")]
    assert busy[0]["pid"] == int((tmp_path / "blocker").read_text())
    assert all(child["rss"] > 5_000 for child in children)
    release.touch()
    orchestrator.report(run)
    orchestrator.beat(messages.BEAT, lambda beat: not beat.held)


def test_hello_is_said_again_when_asked(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1")
    first = orchestrator.beat(messages.HELLO)
    orchestrator.beat(messages.BEAT)
    heard = len(orchestrator.beats)
    orchestrator.control(messages.RESEND_HELLO)

    def answer() -> Heartbeat | None:
        return next((beat for beat in orchestrator.beats[heard:] if beat.kind == messages.HELLO), None)

    again = wait_until(answer, 15, "another hello")
    assert again is not None
    assert again.worker == first.worker


def test_a_cancel_interrupts_sync_code(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1")
    for name in ("sleep", "async_sleep"):
        run = orchestrator.run(name, 60)
        orchestrator.report(run, messages.STARTED)
        orchestrator.control(messages.CANCEL, [key(run)])
        got = orchestrator.report(run)
        assert got.kind == messages.CANCELLED
        assert got.body["ms"] < 10_000
    assert orchestrator.result(orchestrator.run("sleep", 0.3)) == "slept", "a cancel hits no other run"


def test_an_abort_of_another_epoch_interrupts_nothing(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1")
    run = orchestrator.dispatch(make("sleep", 1.0, epoch=3))[0]
    orchestrator.report(run, messages.STARTED)
    orchestrator.control(messages.ABORT, [messages.RunKey(run.run_id, 2)])
    assert orchestrator.report(run).kind == messages.COMPLETED
    stale = orchestrator.dispatch(make("sleep", 60, epoch=3))[0]
    orchestrator.report(stale, messages.STARTED)
    orchestrator.control(messages.ABORT, [key(stale)])
    assert orchestrator.report(stale).kind == messages.CANCELLED


def test_who_pays_no_heed_to_a_cancel_is_killed(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    worker = start("-c", "1")
    run = orchestrator.run("stubborn", str(tmp_path / "running"))
    wait_until(lambda: (tmp_path / "running").exists(), what="the task to run")
    orchestrator.control(messages.CANCEL, [key(run)])
    got = orchestrator.report(run, timeout=20)
    assert got.kind == messages.CANCELLED
    assert got.body["ms"] >= 10_000
    assert "SIGKILL (cancelled)" in worker.log
    assert orchestrator.report(orchestrator.run("noop")).kind == messages.COMPLETED


def test_a_drain_message_ends_the_worker_it_names(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    one, other = start("-c", "1"), start("-c", "1")
    wait_until(lambda: len({beat.worker for beat in orchestrator.beats if beat.kind == messages.BEAT}) == 2)
    pids = {beat.worker: beat.fields["pid"] for beat in orchestrator.beats if beat.kind == messages.HELLO}
    name = next(worker for worker, pid in pids.items() if pid == one.process.pid)
    orchestrator.control(messages.DRAIN, worker=name)
    assert one.wait() == 0
    assert orchestrator.beat_of(name, messages.BYE)
    assert other.process.poll() is None


def test_a_link_that_is_killed_is_replaced(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    worker = start("-c", "1")
    run, release = blocker(orchestrator, tmp_path)
    link = next(pid for pid in worker.family if Path(f"/proc/{pid}/comm").read_text().strip() == "aiki-link")
    os.kill(link, signal.SIGKILL)
    hello = orchestrator.beat(messages.HELLO)
    assert [(item.run_id, item.epoch) for item in hello.held] == [key(run)]
    orchestrator.beat(messages.BEAT, lambda beat: bool(beat.held))
    orchestrator.control(messages.CANCEL, [key(run)])
    assert orchestrator.report(run).kind == messages.CANCELLED
    assert orchestrator.report(orchestrator.run("noop")).kind == messages.COMPLETED
    release.touch()
