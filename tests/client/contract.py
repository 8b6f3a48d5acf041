"""What every client does, whichever way it asks. A test module derives from `ClientContract` and supplies the fixtures."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid

import pytest

from aiki import codec, ids
from aiki.client import Client
from aiki.codec import Payload
from aiki.errors import ConfigurationError, ReferenceConflict, RunConflict, RunNotFound
from aiki.history import EVENT_SENT
from aiki.model import DefinitionInfo, NewRun, RunFilter
from aiki.states import State
from aiki.storage import Store
from aiki.storage.auditing import AuditFilter
from aiki.storage.history import select_arrivals
from tests.client.ending import end
from tests.client.workflows import NAME as WORKFLOW
from tests.client.workflows import child, done, new_workflow, record, sleep
from tests.waiting import wait_until

NAME = "shop.charge"


def new_run(*args: object, **fields: object) -> NewRun:
    return NewRun(str(ids.new_id()), NAME, codec.encode([[*args], {}]), **fields)  # type: ignore[arg-type]


def events(store: Store, run_id: str) -> list[tuple[str, Payload | None]]:
    """The events that came to a workflow."""
    raw = ids.to_bytes(run_id)
    found = store.db.read(lambda connection: select_arrivals(store.db, connection, store.namespace, [raw]))
    return [(arrival.name, arrival.payload) for arrival in found.get(raw, ()) if arrival.kind == EVENT_SENT]


class ClientContract:
    """Fixtures: `client`, and `store`, which sees the same database."""

    @pytest.fixture(autouse=True)
    def _known(self, client: Client) -> None:
        client.register(
            [DefinitionInfo(NAME, options={"queue": "money", "retry": {}}), DefinitionInfo(WORKFLOW, kind="workflow")]
        )

    # ------------------------------------------------------------ enqueue
    def test_an_enqueued_run_can_be_looked_at(self, client: Client) -> None:
        run = new_run("o-1", 4200, queue="money", options={"tl": 5.0, "mc": 2})
        (accepted,) = client.enqueue([run])
        assert (accepted.id, accepted.state, accepted.created) == (run.id, State.QUEUED, True)
        seen = client.get(run.id)
        assert (seen.id, seen.name, seen.queue, seen.state, seen.attempt) == (run.id, NAME, "money", State.QUEUED, 1)
        assert abs(seen.created_at - client.now()) < 60_000_000
        detail = client.detail(run.id)
        assert detail.run == seen
        assert detail.input == run.input
        assert detail.result is None
        assert detail.attempts == []

    def test_many_are_answered_in_the_order_asked(self, client: Client) -> None:
        runs = [new_run(i) for i in range(120)]
        assert [accepted.id for accepted in client.enqueue(runs, batch=7)] == [run.id for run in runs]

    def test_asking_twice_is_one_run(self, client: Client) -> None:
        run = new_run(1)
        client.enqueue([run])
        (again,) = client.enqueue([run])
        assert (again.id, again.created) == (run.id, False)
        assert len(client.list(RunFilter()).runs) == 1

    def test_an_id_of_another_task_is_a_conflict(self, client: Client) -> None:
        run = new_run(1)
        client.enqueue([run])
        client.register([DefinitionInfo("shop.other")])
        with pytest.raises(RunConflict, match=run.id):
            client.enqueue([NewRun(run.id, "shop.other", run.input)])

    def test_a_later_run_is_scheduled(self, client: Client) -> None:
        run = new_run(1, due_at=client.now() + 3_600_000_000, expires_at=client.now() + 7_200_000_000)
        (accepted,) = client.enqueue([run])
        assert accepted.state is State.SCHEDULED
        seen = client.get(run.id)
        assert (seen.due_at, seen.expires_at) == (run.due_at, run.expires_at)

    def test_a_reference_id_with_the_same_input_is_the_same_run(self, client: Client) -> None:
        first, second = (new_run(1, reference_id="order-1") for _ in range(2))
        client.enqueue([first])
        (again,) = client.enqueue([second])
        assert (again.id, again.created) == (first.id, False)
        assert client.get(first.id).reference_id == "order-1"

    def test_a_reference_id_with_another_input_is_refused(self, client: Client) -> None:
        first, second = new_run(1, reference_id="order-1"), new_run(2, reference_id="order-1")
        client.enqueue([first])
        with pytest.raises(ReferenceConflict, match="order-1") as caught:
            client.enqueue([new_run(5), second])
        assert caught.value.run_id == first.id
        assert len(client.list(RunFilter()).runs) == 1, "all or none"

    def test_return_existing_gives_the_run_that_is_there(self, client: Client) -> None:
        first = new_run(1, reference_id="order-1")
        client.enqueue([first])
        (again,) = client.enqueue([new_run(2, reference_id="order-1", on_conflict="return_existing")])
        assert again.id == first.id

    @pytest.mark.parametrize("state", [State.FAILED, State.DEAD])
    def test_retry_failed_retries_a_run_that_has_failed(self, client: Client, store: Store, state: State) -> None:
        first, alive, fresh = (new_run(n, reference_id=f"order-{n}", on_conflict="retry_failed") for n in range(3))
        client.enqueue([first, alive])
        end(store, first.id, state, error=("ValueError", "no"))
        asked = [new_run(n, reference_id=f"order-{n}", on_conflict="retry_failed") for n in range(2)]
        answers = client.enqueue([*asked, fresh, new_run(0, reference_id="order-0", on_conflict="retry_failed")])
        told = [(answer.id, answer.state, answer.created) for answer in answers]
        assert told[0] == told[3] == (first.id, State.QUEUED, False)
        assert told[1:3] == [(alive.id, State.QUEUED, False), (fresh.id, State.QUEUED, True)]
        seen = client.get(first.id)
        assert (seen.state, seen.attempt, seen.error_type) == (State.QUEUED, 2, None)
        assert client.get(alive.id).attempt == 1
        (again,) = client.enqueue([new_run(0, reference_id="order-0", on_conflict="retry_failed")])
        assert (again.id, client.get(first.id).attempt) == (first.id, 2), "once: now it is alive"

    def test_retry_failed_leaves_what_completed_was_cancelled_or_has_another_input(self, client: Client, store: Store) -> None:
        runs = [new_run(n, reference_id=f"order-{n}") for n in range(3)]
        client.enqueue(runs)
        end(store, runs[0].id, result=1)
        client.cancel(runs[1].id)
        end(store, runs[2].id, State.FAILED, error=("ValueError", "no"))
        asked = [new_run("other", n, reference_id=f"order-{n}", on_conflict="retry_failed") for n in range(3)]
        answers = client.enqueue(asked)
        assert [answer.id for answer in answers] == [run.id for run in runs]
        assert [answer.state for answer in answers] == [State.COMPLETED, State.CANCELLED, State.QUEUED]
        assert client.detail(runs[2].id).input == runs[2].input, "it is tried again with the input that it has"

    def test_two_sweeps_at_once_retry_a_run_once(self, client: Client, store: Store) -> None:
        runs = [new_run(n, reference_id=f"order-{n}") for n in range(5)]
        client.enqueue(runs)
        for run in runs:
            end(store, run.id, State.FAILED, error=("ValueError", "no"))
        ready, errors = threading.Barrier(4), []

        def sweep(order: int) -> None:
            asked = [new_run(n, reference_id=f"order-{n}", on_conflict="retry_failed") for n in range(5)]
            ready.wait(30)
            try:
                client.enqueue(asked if order % 2 else asked[::-1])
            except Exception as error:
                errors.append(error)

        sweeps = [threading.Thread(target=sweep, args=(order,)) for order in range(4)]
        for thread in sweeps:
            thread.start()
        for thread in sweeps:
            thread.join(60)
        assert errors == []
        assert [(client.get(run.id).state, client.get(run.id).attempt) for run in runs] == [(State.QUEUED, 2)] * 5

    # ------------------------------------------------------------ reasons
    def test_each_verb_carries_its_reason(self, client: Client, store: Store) -> None:
        task, flow = new_run(1), new_workflow("o-1")
        client.enqueue([task, flow])
        end(store, task.id, State.FAILED, error=("ValueError", "no"))
        record(store, flow.id)
        sleep(store, flow.id, 0, "night")
        client.retry(task.id, reason="because of retry")
        client.pause(task.id, reason="because of pause")
        client.resume(task.id, reason="because of resume")
        client.wake(flow.id, reason="because of wake")
        client.send_event(flow.id, "paid", None, reason="because of event")
        client.rerun(task.id, reason="because of rerun")
        client.cancel(task.id, reason="because of cancel")
        client.cancel(flow.id, reason="because of terminate", at_once=True)
        told = {item.action: item.reason for item in store.audit_log(AuditFilter(), limit=50) if item.reason}
        verbs = ("retry", "pause", "resume", "wake", "event", "rerun", "cancel", "terminate")
        assert told == {verb: f"because of {verb}" for verb in verbs}

    def test_what_a_run_waits_for_is_told(self, client: Client, store: Store) -> None:
        flow = new_workflow("o-1")
        client.enqueue([flow])
        assert client.detail(flow.id).waiting is None
        sleep(store, flow.id, 0, "event and night")
        waiting = client.detail(flow.id).waiting
        assert waiting is not None
        (item,) = waiting.items
        assert (waiting.every, item.kind, item.name, item.run_ids) == (False, "sleep", "event and night", ())
        assert item.due_at is not None
        assert item.due_at > client.now()

    # ------------------------------------------------------------ read
    def test_what_is_not_there_is_not_found(self, client: Client) -> None:
        for unknown in (str(uuid.uuid4()), "no-id"):
            asks = [client.get, client.detail, client.cancel, client.retry, client.rerun, client.history, client.pause]
            asks += [client.resume, client.wake, lambda run_id: client.send_event(run_id, "paid", None)]
            for ask in asks:
                with pytest.raises(RunNotFound, match=unknown):
                    ask(unknown)
        with pytest.raises(RunNotFound):
            client.get(str(uuid.uuid4()), wait=5)

    def test_waiting_ends_with_the_run(self, client: Client, store: Store) -> None:
        run = new_run(1)
        client.enqueue([run])
        thread = threading.Timer(0.1, end, [store, run.id], {"result": {"paid": True}})
        thread.start()
        began = time.monotonic()
        detail = client.detail(run.id, wait=20)
        assert time.monotonic() - began < 10
        thread.join()
        assert detail.run.state is State.COMPLETED
        assert detail.result is not None
        assert codec.decode(detail.result) == {"paid": True}
        assert client.get(run.id, wait=20).ended

    def test_a_short_wait_tells_the_whole_end_or_nothing(self, client: Client, store: Store) -> None:
        done, open_ = new_run(1), new_run(2)
        client.enqueue([done, open_])
        end(store, done.id, result={"paid": True})
        told = client.soon(done.id, 5)
        assert told is None or (told.state is State.COMPLETED and told.result == codec.encode({"paid": True}))
        assert client.soon(open_.id, 0.01) is None

    def test_waiting_ends_with_the_time(self, client: Client) -> None:
        run = new_run(1)
        client.enqueue([run])
        began = time.monotonic()
        assert client.get(run.id, wait=0.2).state is State.QUEUED
        assert 0.15 < time.monotonic() - began < 5

    def test_many_can_wait_in_one_event_loop(self, client: Client, store: Store) -> None:
        runs = [new_run(i) for i in range(100)]
        client.enqueue(runs)

        async def wait_for_all() -> list[bool]:
            waits = [asyncio.ensure_future(client.aended(run.id, 20)) for run in runs]
            late = asyncio.ensure_future(client.aended(runs[0].id, 0.05))
            assert not await late
            for run in runs:
                await asyncio.to_thread(end, store, run.id)
            return await asyncio.gather(*waits)

        assert asyncio.run(wait_for_all()) == [True] * 100

    def test_lists_are_filtered_and_paged(self, client: Client, store: Store) -> None:
        runs = [new_run(i, queue="money" if i % 2 else "default") for i in range(7)]
        client.enqueue(runs)
        end(store, runs[0].id)
        newest_first = [run.id for run in reversed(runs)]
        first = client.list(RunFilter(), limit=4)
        second = client.list(RunFilter(), limit=4, after=first.next)
        assert [run.id for run in first.runs + second.runs] == newest_first
        assert second.next is None

        def ids_of(**where: object) -> list[str]:
            return [run.id for run in client.list(RunFilter(**where)).runs]  # type: ignore[arg-type]

        assert ids_of(states=(State.COMPLETED,)) == [runs[0].id]
        assert ids_of(queue="money") == [run.id for run in reversed(runs) if run.queue == "money"]
        assert ids_of(name="shop.other") == []
        assert ids_of(reference_id="x y&z") == []
        assert ids_of(created_after=client.now() + 3_600_000_000) == []
        assert len(ids_of(created_before=client.now() + 3_600_000_000, states=(State.QUEUED, State.COMPLETED))) == 7

    def test_lists_hold_one_kind_or_what_a_workflow_started(self, client: Client, store: Store) -> None:
        flow, alone = new_workflow(), new_run()
        client.enqueue([flow, alone])
        parent = ids.to_bytes(flow.id)
        children = tuple(new_run(i, parent_id=parent, parent_ordinal=i) for i in range(5))
        record(store, flow.id, *(child(i, run) for i, run in enumerate(children)), children=children)
        end(store, children[1].id)

        def ids_of(limit: int = 50, after: str | None = None, **where: object) -> list[str]:
            page = client.list(RunFilter(**where), limit=limit, after=after)  # type: ignore[arg-type]
            return [run.id for run in page.runs] + (ids_of(limit, page.next, **where) if page.next else [])

        newest_first = [run.id for run in reversed(children)]
        assert ids_of(parent_id=flow.id) == ids_of(2, parent_id=flow.id) == newest_first
        assert ids_of(parent_id=flow.id, states=(State.COMPLETED, State.FAILED)) == [children[1].id]
        assert ids_of(parent_id=flow.id, kind="workflow") == ids_of(parent_id=alone.id) == []
        assert ids_of(kind="workflow") == [flow.id]
        assert ids_of(kind="task", name=NAME) == [*newest_first, alone.id]
        assert client.get(children[0].id).parent_id == flow.id
        assert client.get(alone.id).parent_id is None
        with pytest.raises(ConfigurationError, match="o-1"):
            client.list(RunFilter(parent_id="o-1"))

    # ------------------------------------------------------------ change
    def test_a_queued_run_is_cancelled_at_once(self, client: Client) -> None:
        run = new_run(1)
        client.enqueue([run])
        assert client.cancel(run.id, reason="not wanted").state is State.CANCELLED
        assert client.cancel(run.id).state is State.CANCELLED

    def test_an_ended_run_stays_as_it_is(self, client: Client, store: Store) -> None:
        run = new_run(1)
        client.enqueue([run])
        end(store, run.id)
        assert client.cancel(run.id).state is State.COMPLETED
        with pytest.raises(RunConflict, match="completed"):
            client.retry(run.id)

    def test_a_failed_run_tells_why_and_can_go_on(self, client: Client, store: Store) -> None:
        run = new_run(1)
        client.enqueue([run])
        end(store, run.id, State.FAILED, error=("ValueError", "no such card"))
        detail = client.detail(run.id)
        assert (detail.run.error_type, detail.run.error_message) == ("ValueError", "no such card")
        assert detail.traceback == "Traceback: here"
        assert [attempt.outcome for attempt in detail.attempts] == ["failed"]
        again = client.retry(run.id)
        assert (again.id, again.state, again.attempt) == (run.id, State.QUEUED, 2)

    def test_rerun_is_a_new_run_with_the_same_input(self, client: Client, store: Store) -> None:
        run = new_run("again", queue="money", options={"tl": 7.0})
        client.enqueue([run])
        end(store, run.id)
        accepted = client.rerun(run.id)
        assert accepted.created
        assert accepted.id != run.id
        detail = client.detail(accepted.id)
        assert (detail.input, detail.run.queue, detail.run.state) == (run.input, "money", State.QUEUED)

    # ------------------------------------------------------------ workflows
    @pytest.fixture
    def flow(self, client: Client, store: Store) -> str:
        """A workflow that has done two steps and runs."""
        run = new_workflow("o-1")
        client.enqueue([run])
        record(store, run.id, done(0, "reserve", {"shelf": 7}), done(1, "shop.charge", 4200))
        return run.id

    def test_a_workflows_first_cancel_waits_for_its_code_and_the_second_does_not(self, client: Client, flow: str) -> None:
        asked = client.cancel(flow, reason="not wanted")
        assert (asked.state, asked.cancel_requested) == (State.RUNNING, True)
        assert client.cancel(flow, once=True).state is State.RUNNING, "it was asked for already"
        assert client.cancel(flow).state is State.CANCELLED

    def test_terminate_ends_a_run_at_once(self, client: Client, flow: str) -> None:
        assert client.cancel(flow, reason="now", at_once=True).state is State.CANCELLED
        assert client.cancel(flow, at_once=True).state is State.CANCELLED
        task = new_run()
        client.enqueue([task])
        assert client.cancel(task.id, at_once=True).state is State.CANCELLED

    def test_a_run_is_paused_and_resumed(self, client: Client, store: Store, flow: str) -> None:
        assert client.pause(flow, reason="look first").state is State.RUNNING, "until its next durable point"
        assert client.resume(flow).state is State.RUNNING
        sleep(store, flow, 2, "night")
        assert client.pause(flow).state is State.PAUSED
        assert client.pause(flow).state is State.PAUSED
        assert client.resume(flow).state is State.QUEUED
        with pytest.raises(RunConflict, match="queued"):
            client.resume(flow)
        queued, later = new_run(), new_run(due_at=client.now() + 3_600_000_000)
        client.enqueue([queued, later])
        asked = client.pause(queued.id)
        assert (asked.state, asked.waiting_on) == (State.PAUSED, "paused by an operator")
        resumed = client.resume(queued.id)
        assert (resumed.state, resumed.waiting_on) == (State.QUEUED, None)
        assert client.pause(later.id).state is State.PAUSED
        assert client.resume(later.id).state is State.SCHEDULED
        end(store, queued.id)
        with pytest.raises(RunConflict, match="completed"):
            client.pause(queued.id)

    def test_only_what_sleeps_is_woken(self, client: Client, store: Store, flow: str) -> None:
        with pytest.raises(RunConflict, match="running"):
            client.wake(flow)
        sleep(store, flow, 2, "night")
        assert "night" in (client.get(flow).waiting_on or "")
        with pytest.raises(RunConflict, match="'day'"):
            client.wake(flow, name="day")
        assert client.wake(flow, name="night").state is State.QUEUED
        with pytest.raises(RunConflict, match="queued"):
            client.wake(flow)

    def test_an_event_is_kept_once_for_each_reference_id(self, client: Client, store: Store, flow: str) -> None:
        payload = codec.encode({"cents": 4200, "at": b"\x00"})
        for _ in range(2):
            assert client.send_event(flow, "paid", payload, reference_id="p-1").id == flow
            client.send_event(flow, "shipped", payload, reference_id="p-1")
            client.send_event(flow, "seen", None)
        came = events(store, flow)
        assert sorted(name for name, _ in came) == ["paid", "seen", "seen", "shipped"]
        assert dict(came) == {"paid": payload, "shipped": payload, "seen": None}

    def test_what_takes_no_events_says_so(self, client: Client, store: Store, flow: str) -> None:
        client.send_event(flow, "paid", None, reference_id="p-1")
        end(store, flow)
        client.send_event(flow, "paid", None, reference_id="p-1")  # it was heard, whatever the caller knows
        with pytest.raises(RunConflict, match="completed"):
            client.send_event(flow, "paid", None)
        task = new_run()
        client.enqueue([task])
        with pytest.raises(RunConflict, match="a task"):
            client.send_event(task.id, "paid", None)

    def test_a_history_is_read_by_ordinal(self, client: Client, store: Store, flow: str) -> None:
        part = new_run(1, parent_id=ids.to_bytes(flow), parent_ordinal=2)
        record(store, flow, child(2, part), children=(part,))
        sleep(store, flow, 3, "night")
        steps = client.history(flow)
        told = [(step.ordinal, step.kind, step.name, step.state) for step in steps]
        assert told == [
            (0, "step", "reserve", "completed"), (1, "step", "shop.charge", "completed"),
            (2, "task", NAME, "open"), (3, "sleep", "night", "open"),
        ]  # fmt: skip
        assert (steps[0].input, steps[0].millis, steps[0].attempt) == ('["o-1"]', 12, 1)
        assert steps[0].result == codec.encode({"shelf": 7})
        assert steps[2].child_id == part.id
        assert abs(steps[0].created_at - client.now()) < 60_000_000
        assert [step.ordinal for step in client.history(flow, after=0, limit=2)] == [1, 2]
        assert client.history(flow, after=3) == []
        end(store, part.id, State.FAILED, error=("ValueError", "no such card"))
        failed = client.history(flow)[2]
        assert (failed.state, failed.error_type, failed.error_message) == ("failed", "ValueError", "no such card")
        task = new_run()
        client.enqueue([task])
        assert client.history(task.id) == []

    def test_a_rerun_from_a_step_keeps_what_was_before_it(self, client: Client, store: Store, flow: str) -> None:
        sleep(store, flow, 2, "night")
        accepted = client.rerun(flow, from_step=1)
        assert accepted.created
        assert accepted.id != flow
        again = client.get(accepted.id)
        assert (again.name, again.kind, again.state, again.parent_id) == (WORKFLOW, "workflow", State.QUEUED, None)
        assert client.detail(again.id).input == client.detail(flow).input
        (kept,) = client.history(again.id)
        assert (kept.ordinal, kept.name, kept.result) == (0, "reserve", codec.encode({"shelf": 7}))
        assert client.history(client.rerun(flow).id) == []
        new_id = str(ids.new_id())
        for from_step in (None, 1):
            accepted = client.rerun(flow, from_step=from_step, new_id=new_id)
            assert (accepted.id, accepted.created) == (new_id, from_step is None), "the same run, asked for twice"
        assert client.history(new_id) == []
        assert client.history(client.rerun(flow, from_step=0).id) == []
        with pytest.raises(RunConflict, match="from step 3: it has 3 steps"):
            client.rerun(flow, from_step=3)
        record(store, flow, done(3, "ship"))
        with pytest.raises(RunConflict, match=r"step 2 \(night\) has no result"):
            client.rerun(flow, from_step=3)
        task = new_run()
        client.enqueue([task])
        with pytest.raises(RunConflict, match="it is a task"):
            client.rerun(task.id, from_step=0)

    def test_it_can_be_closed_twice(self, client: Client) -> None:
        client.enqueue([new_run(1)])
        client.close()
        client.close()

    # ------------------------------------------------------------ the broker
    def test_what_is_due_is_published_and_forgotten(self, client: Client, store: Store) -> None:
        client.enqueue([new_run(i) for i in range(60)])
        client.enqueue([new_run("alone")])
        wait_until(lambda: store.next_due() is None, 10, "all deliveries to be published and deleted")
