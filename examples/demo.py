"""The demo: a shop on the embedded default, with failures, retries, and processes killed on purpose.

    make demo        (or: python examples/demo.py --orders 80)

Starts an orchestrator and a worker of four processes in a temporary directory. First a few hundred tasks: the process that
resizes a picture is killed with SIGKILL, and each run is accounted for. Then a durable workflow (`demo_checkout.py`): the
process that executes it is killed half-way, and no step that was recorded runs again. Exit code 0 if all came out as it
must. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import demo_checkout
import shop
from demo_checkout import read
from staging import DemoFailed, Progress, Stop, check_alive, print_rows, processes, wait

from aiki import Handle, RunDetail, State

POSTER = "poster.png"
ENDS = (State.COMPLETED, State.FAILED, State.CANCELLED, State.DEAD)

Row = tuple[str, State]


# ---------------------------------------------------------------- the story
def enqueue(orders: int) -> dict[str, Handle[Any]]:
    """All runs of so many orders, by id."""
    ids = [f"o-{number}" for number in range(1, orders + 1)]
    handles: list[Handle[Any]] = []
    handles += shop.charge.enqueue_many((order, 990 + 10 * index) for index, order in enumerate(ids))
    handles += shop.render_invoice.enqueue_many((order, 990 + 10 * index) for index, order in enumerate(ids))
    handles += shop.send_mail.enqueue_many((order, "Your order") for order in ids)
    handles += [shop.refund.enqueue(order, 990) for order in ids[:: len(ids) // 4 or 1]]
    handles += [shop.resize_image.options(reference_id=f"{order}.png").enqueue(f"{order}.png", 0.1) for order in ids[::8]]
    return {handle.id: handle for handle in handles}


def expected(orders: int) -> tuple[Counter[Row], dict[str, int]]:
    """How many runs end in which state, and how many attempts each name takes, from the rules of the shop."""
    numbers = range(1, orders + 1)
    declined = sum(n % 20 == 11 for n in numbers)
    retried = sum(2 if n % 25 == 7 else 1 if n % 10 == 3 else 0 for n in numbers)
    greylisted = sum(n % 30 == 17 for n in numbers)
    refunds = len(numbers[:: orders // 4 or 1])
    images = len(numbers[::8]) + 1
    states: Counter[Row] = Counter()
    states["shop.charge", State.COMPLETED] = orders - declined
    states["shop.charge", State.FAILED] = declined
    states["shop.render_invoice", State.COMPLETED] = orders
    states["shop.send_mail", State.COMPLETED] = orders
    states["shop.refund", State.FAILED] = refunds
    states["shop.resize_image", State.COMPLETED] = images
    attempts = {
        "shop.charge": orders + retried,
        "shop.render_invoice": orders,
        "shop.send_mail": orders + greylisted,
        "shop.refund": 2 * refunds,
        "shop.resize_image": images + 1,  # the one that is killed
    }
    return +states, attempts


def kill_one(notes: Path, progress: Progress, alive: Callable[[], None]) -> int:
    """Kill the process that resizes the poster, while it does; its id."""

    def process() -> int | None:
        progress.show("waiting for the process that resizes the poster")
        return next((note.pid for note in read(notes) if note.key == POSTER), None)

    pid = wait(process, alive, "the poster was never seen running")
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_for_all(handles: dict[str, Handle[Any]], progress: Progress, alive: Callable[[], None]) -> None:
    """Wait until every run has ended, as long as one does now and then."""
    left: Counter[State] = Counter()

    def ended() -> bool | None:
        left.clear()
        for run in shop.app.runs(state=[state for state in State if state not in ENDS]):
            left[run.state] += not run.ended  # it may have ended since it was looked for
            if left.total() % 1000 == 0:
                alive()
        states = ", ".join(f"{count} {state}" for state, count in sorted(left.items()) if count)
        progress.show(f"{len(handles) - left.total()} of {len(handles)} runs have ended" + (f" ({states})" if states else ""))
        # One that went from one state to another while we looked may have been overlooked: all are looked at before it is said.
        return None if left.total() or not all(run.ended for run in shop.app.runs()) else True

    wait(ended, alive, "not every run has ended", left.total)


def details_of(progress: Progress, alive: Callable[[], None]) -> list[RunDetail]:
    """All runs with their attempts."""
    out = []
    for view in shop.app.runs():
        out.append(shop.app.client.detail(view.id))
        if len(out) % 100 == 0:
            alive()
            progress.show(f"{len(out)} runs are looked at")
    return out


# ---------------------------------------------------------------- what is shown
def print_table(details: list[RunDetail], attempts: dict[str, int]) -> None:
    """Every run, by name and state."""
    names = sorted({detail.run.name for detail in details})
    states = sorted({detail.run.state for detail in details})
    header = ["task", *states, "runs", "attempts"]
    rows = [header]
    for name in names:
        mine = [detail.run.state for detail in details if detail.run.name == name]
        rows.append([name, *(str(mine.count(state) or "") for state in states), str(len(mine)), str(attempts[name])])
    every = [detail.run.state for detail in details]
    rows.append(["all", *(str(every.count(state)) for state in states), str(len(every)), str(sum(attempts.values()))])
    print_rows(rows)


# ---------------------------------------------------------------- the account
def verify(handles: dict[str, Handle[Any]], details: list[RunDetail], poster: str, orders: int) -> dict[str, int]:
    """Hold what came out against what must; the attempts of each name. Raises `DemoFailed`."""
    found = {detail.run.id for detail in details}
    if found != set(handles):
        raise DemoFailed(f"{len(set(handles) - found)} runs are lost, {len(found - set(handles))} were never enqueued")
    states, attempts = expected(orders)
    got = Counter((detail.run.name, detail.run.state) for detail in details)
    if got != states:
        raise DemoFailed(
            f"the runs ended in other states than they must: {dict(got - states)} in place of {dict(states - got)}"
        )
    tries: Counter[str] = Counter()
    for detail in details:
        tries[detail.run.name] += detail.run.attempt
    if tries != attempts:
        raise DemoFailed(f"attempts by name: {dict(tries)}; they must be {attempts}")
    crashed = {detail.run.id: [a.signal for a in detail.attempts if a.outcome == "crashed"] for detail in details}
    if crashed[poster] != ["SIGKILL"]:
        raise DemoFailed(f"the poster's attempts must name one SIGKILL, and name {crashed[poster]}")
    charged = [run_id for run_id, signals in crashed.items() if signals and run_id != poster]
    if charged:
        raise DemoFailed(f"the kill was charged to runs that were not being executed: {charged}")
    return dict(tries)


def run(orders: int, directory: Path, stop: Stop) -> None:
    began = time.monotonic()
    progress = Progress()
    # Before there is a worker: however many orders there are, the poster is seen being resized.
    poster = shop.resize_image.enqueue(POSTER, 2.0)
    handles: dict[str, Handle[Any]] = {poster.id: poster, **enqueue(orders)}
    stop.check()
    progress.done(f"{len(handles)} runs of {orders} orders are enqueued; an orchestrator and a worker of 4 processes start")
    with processes(directory, stop) as started:

        def alive() -> None:
            check_alive(started, stop)

        pid = kill_one(directory / "notes", progress, alive)
        progress.done(f"process {pid} was killed with SIGKILL while it resized {POSTER}")
        wait_for_all(handles, progress, alive)
        progress.done(f"all {len(handles)} runs have ended")
        details = details_of(progress, alive)
        tell_tasks(details, verify(handles, details, poster.id, orders), poster.id)
        steps = demo_checkout.run(directory, progress, alive)
    print(
        f"Every one of {len(details)} tasks and {steps} steps is accounted for; nothing is lost. "
        f"It took {time.monotonic() - began:.1f} s."
    )


def tell_tasks(details: list[RunDetail], tries: dict[str, int], poster: str) -> None:
    """What came of the tasks."""
    print_table(details, tries)
    killed = next(detail for detail in details if detail.run.id == poster)
    crash = next(attempt for attempt in killed.attempts if attempt.outcome == "crashed")
    print(f"  killed:  run {poster} ({POSTER}), attempt {crash.number}: {crash.signal}; attempt {killed.run.attempt} completed")
    failures = Counter(detail.run.error_type for detail in details if detail.run.state is State.FAILED)
    print(f"  failed:  {', '.join(f'{count} {kind}' for kind, count in sorted(failures.items()))}, as they must\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="A shop's tasks, with failures, retries and a killed process.")
    parser.add_argument("--orders", type=int, default=80, metavar="N", help="how many orders, 8 or more (default: 80)")
    orders = parser.parse_args().orders
    if orders < 8:
        parser.error("--orders: 8 or more")
    for variable in [name for name in os.environ if name.startswith("AIKI_")]:
        del os.environ[variable]  # the demo is on the embedded default, whatever this shell is set up for
    stop = Stop()
    stop.listen()
    try:
        return staged(orders, stop)
    except KeyboardInterrupt:
        print("\nstopped; all processes are ended", file=sys.stderr)
        return 130


def staged(orders: int, stop: Stop) -> int:
    """The whole demo in a directory of its own, which is gone afterwards; the exit code."""
    directory = Path(tempfile.mkdtemp(prefix="aiki-demo-"))
    os.environ["AIKI_DATABASE_URL"] = f"sqlite:///{directory}/aiki.db"
    os.environ["AIKI_BROKER_URL"] = f"sqlite:///{directory}/broker.db"
    os.environ["SHOP_NOTES"] = str(directory / "notes")
    try:
        run(orders, directory, stop)
    except DemoFailed as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        for log in sorted(directory.glob("*.log")):
            print(f"\n--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-20:]), file=sys.stderr)
        return 1
    finally:
        with stop.held_back():
            shop.app.close()
            shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
