"""What every client does, whichever way it asks. A test module derives from `ClientContract` and supplies the fixtures."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid

import pytest

from aiki import codec, ids
from aiki.client import Client
from aiki.errors import ReferenceConflict, RunConflict, RunNotFound
from aiki.model import DefinitionInfo, NewRun, RunFilter
from aiki.states import State
from aiki.storage import Store
from tests.client.ending import end
from tests.waiting import wait_until

NAME = "shop.charge"


def new_run(*args: object, **fields: object) -> NewRun:
    return NewRun(str(ids.new_id()), NAME, codec.encode([[*args], {}]), **fields)  # type: ignore[arg-type]


class ClientContract:
    """Fixtures: `client`, and `store`, which sees the same database."""

    @pytest.fixture(autouse=True)
    def _known(self, client: Client) -> None:
        client.register([DefinitionInfo(NAME, options={"queue": "money", "retry": {}})])

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

    # ------------------------------------------------------------ read
    def test_what_is_not_there_is_not_found(self, client: Client) -> None:
        for unknown in (str(uuid.uuid4()), "no-id"):
            for ask in (client.get, client.detail, client.cancel, client.retry, client.rerun):
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

    def test_it_can_be_closed_twice(self, client: Client) -> None:
        client.enqueue([new_run(1)])
        client.close()
        client.close()

    # ------------------------------------------------------------ the broker
    def test_what_is_due_is_published_and_forgotten(self, client: Client, store: Store) -> None:
        client.enqueue([new_run(i) for i in range(60)])
        client.enqueue([new_run("alone")])
        wait_until(lambda: store.next_due() is None, 10, "all deliveries to be published and deleted")
