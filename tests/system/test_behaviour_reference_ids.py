"""One reference id is one run, however many ask for it at once."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from aiki import Handle, ReferenceConflict
from tests.system.system import HERE, System

THREADS = 60
PROCESSES = 4
PER_PROCESS = 10

_ASK = """
import sys, threading
sys.path.insert(0, {here!r})
from shop import app, marked
got, errors = [], []
def ask():
    try:
        got.append(marked.options(reference_id="order-1").enqueue(1).id)
    except BaseException as error:
        errors.append(repr(error))
threads = [threading.Thread(target=ask) for _ in range({count})]
app.client.list  # connected to before the start
sys.stdin.readline()
for t in threads: t.start()
for t in threads: t.join()
print("\\n".join(got + errors))
app.close()
"""


def test_a_hundred_parallel_enqueues_with_one_reference_id_are_one_run(system: System) -> None:
    system.orchestrator()
    system.worker()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ASK.format(here=str(HERE), count=PER_PROCESS)],
            env=system.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    task = system.app().definitions["shop.marked"]
    got: list[Handle[int]] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(THREADS + 1)

    def ask() -> None:
        barrier.wait(30)
        try:
            got.append(task.options(reference_id="order-1").enqueue(1))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    barrier.wait(30)
    for thread in threads:
        thread.join(60)
    outputs = [process.communicate(timeout=60)[0].split("\n")[:-1] for process in processes]
    assert not errors, errors[:3]
    assert [len(output) for output in outputs] == [PER_PROCESS] * PROCESSES
    ids = {handle.id for handle in got} | {line for output in outputs for line in output}
    assert len(got) == THREADS
    assert len(ids) == 1, ids
    assert {handle.result(timeout=30) for handle in got} == {1}
    assert sum(system.states().values()) == 1
    assert system.starts() == {"1": 1}


def test_another_input_is_a_conflict_that_names_the_run(system: System) -> None:
    tasks = system.app().definitions
    named = tasks["shop.marked"].options(reference_id="order-1")
    first = named.enqueue(1)
    assert named.enqueue(1) == first
    with pytest.raises(ReferenceConflict, match=first.id) as caught:
        named.enqueue(2)
    assert caught.value.run_id == first.id
    assert tasks["shop.marked"].options(reference_id="order-1", on_conflict="return_existing").enqueue(2) == first
    # It is unique for the name: another task's is another run.
    assert tasks["shop.noop"].options(reference_id="order-1").enqueue(1) != first
    # One conflict in many: nothing of the list is recorded.
    before = sum(system.states().values())
    with pytest.raises(ReferenceConflict):
        tasks["shop.marked"].enqueue_many([(7,), tasks["shop.marked"].call(8), _call("order-1", 9)])
    assert sum(system.states().values()) == before


def _call(reference_id: str, value: int) -> object:
    from aiki.arguments import Call

    return Call((value,), reference_id=reference_id)
