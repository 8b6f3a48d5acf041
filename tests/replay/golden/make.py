"""Writes the golden histories that are missing: `python -m tests.replay.golden.make`. See README.md."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiki import codec
from aiki.history import History
from aiki.storage import Store, upgrade
from tests.replay.golden import flows
from tests.replay.host import Ended, World
from tests.storage.bench import Bench
from tests.storage.conftest import SetClock
from tests.storage.stored import StoredWorld

HERE = Path(__file__).parent
EVENTS = {"paid": {"by": "card"}, "yes": 4}


class Labelled(StoredWorld):
    """Ends child workflows too, which `TASKS` does not hold, and sends an event that is refused before one that fits."""

    refused = False

    def run_child(self, ordinal: int, tasks: Any) -> None:
        if self.children[ordinal].name != flows.label.name:
            return super().run_child(ordinal, tasks)
        child = self.children[ordinal].id.replace("-", "")
        self.bench.complete(child, f"label {codec.decode(self.children[ordinal].input)[0][0]}")
        return None

    def satisfy(self, ended: Ended, tasks: Any, events: Any) -> None:
        if ended.waits is not None and any(item.name == "yes" for item in ended.waits.items):
            self.bench.send(self.id, "yes", -1 if not self.refused else 4)
            self.refused = True
        super().satisfy(ended, tasks, events)


def outcome_of(ended: Ended, world: World) -> dict[str, Any]:
    """What is compared: kind, result, error, waits, and the steps that stand in the end."""
    out: dict[str, Any] = {"kind": ended.kind}
    if ended.kind in ("completed", "continued"):
        out["result"] = list(codec.encode(ended.value))
    if ended.kind in ("failed", "cancelled"):
        out["error"] = [type(ended.error).__name__, str(ended.error)]
    if ended.waits is not None:
        out["waits"] = [
            ended.waits.all,
            [[item.kind, item.name, item.first, item.last, item.due] for item in ended.waits.items],
        ]
    out["steps"] = [list(item) for item in world.recorded()]
    return out


def replayed(history: History, flow: Any, args: list[Any], now: int) -> tuple[Ended, World]:
    """Call a workflow's function with a history."""
    world = World(now=now, name=flow.name)
    world.first = history.first
    world.steps = {step.ordinal: step for step in history.steps}
    world.arrivals = list(history.arrivals)
    return world.call(flow, *args), world


def make(bench: Bench, name: str, args: list[Any], *, cancel: bool = False) -> None:
    """Execute a run, and write each history that it was dispatched with, and its last."""
    flow = flows.FLOWS[name]
    world = Labelled(bench, *args, name=name)
    if cancel:
        world.call(flow)
        bench.cancel(world.id)
    found = []
    while True:
        ended = world.finish(flow, tasks=flows.TASKS, events=EVENTS)
        found += [history for history in world.dispatched if history.steps]
        world.dispatched = []
        if ended.kind != "continued":
            break
        args = ended.value[0]
    found.append(world.whole())
    last = found[-1].first
    middle = [history for history in found[:-1] if history.first == last and not executes(flow, history, args)]
    for number, history in enumerate([*middle[len(middle) // 2 :][:1], found[-1]]):
        write(HERE / f"{name.partition('.')[2]}-{number}.json", flow, history, args)


def executes(flow: Any, history: History, args: list[Any]) -> bool:
    """Whether a history goes on with something new at once: then it is no good for keeping."""
    again = History.from_wire(json.loads(json.dumps(history.to_wire())))
    return bool(replayed(again, flow, args, history.now)[1].executed)


def write(path: Path, flow: Any, history: History, args: list[Any]) -> None:
    """Write one file, if it is not there."""
    if path.exists():
        return
    again = History.from_wire(json.loads(json.dumps(history.to_wire())))
    ended, world = replayed(again, flow, args, history.now)
    data = {"workflow": flow.name, "args": args, "history": history.to_wire(), "outcome": outcome_of(ended, world)}
    assert not world.executed
    path.write_text(json.dumps(data, indent=1) + "\n")
    print(f"{path.name}: {ended.kind}, {len(history.steps)} steps, executed {world.executed}")


def main(stored: Callable[..., Store] = Store) -> None:
    """Make all."""
    with tempfile.TemporaryDirectory() as folder:
        url, clock = f"sqlite:///{folder}/aiki.db", SetClock()
        upgrade(url)
        store = stored(url, clock=clock)
        bench = Bench(store, clock)
        for name in ("checkout", "refund", "errors", "approval", "cancelled"):
            make(bench, f"golden.{name}", ["o-1"], cancel=name == "cancelled")
        make(bench, "golden.subscription", [1])
        store.close()


if __name__ == "__main__":
    main()
