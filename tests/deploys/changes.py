"""Changes that a deploy may bring, each as two releases of one module, and what they do to runs.

| field | meaning |
|---|---|
| `first` | a run of the new release's clients that a worker of the old release takes |
| `queued` | a run of the old release's clients that a worker of the new release takes |
| `waiting` | a workflow that waits since the old release, and goes on with the new one |

`GOES_ON`: it completes. `WAITS`: it is parked with the difference named, and completes with a worker of its own release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GOES_ON: Final = "goes on"
WAITS: Final = "waits"

CLASSES: Final = """
class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"

@dataclass
class Order:
    id: str
    amount: int = 5
    size: Size = Size.SMALL
"""
TASK: Final = """
@app.task
def charge(order: Order, currency: str = "EUR") -> str:
    return f"{order.id}"
"""
FLOW: Final = """
def price(order: Order) -> Order:
    return order

def ship(place: str) -> str:
    return place

class Refused(Exception):
    pass

def ask(order: Order) -> str:
    raise Refused("no")

@app.workflow
def checkout(run: WorkflowRun, order: Order) -> str:
    priced = run.step("price", price, order)
    try:
        run.step("ask", ask, order)
    except Refused:
        pass
    run.wait_event("go")
    run.step("ship", ship, "here")
    return f"{priced.id}"
"""
BASE: Final = CLASSES + TASK + FLOW
ENQUEUE: Final = "charge.plain._new_run((Order('o'),), {})"


@dataclass(frozen=True)
class Change:
    """Replacements `(old, new)` make the new release of the old one.

    :ivar name: the line of the guide's table.
    :ivar told: what the parked run says, in part.
    :ivar call: how clients of the old release call the task, `new_call` those of the new one, both as expressions.
    """

    name: str
    edits: tuple[tuple[str, str], ...]
    first: str
    queued: str
    waiting: str
    told: str = ""
    call: str = "((Order('o'),), {})"
    new_call: str = ""
    old: str = BASE

    @property
    def new(self) -> str:
        source = self.old
        for before, after in self.edits:
            assert before in source, before
            source = source.replace(before, after)
        return source


_ORDER = 'def charge(order: Order, currency: str = "EUR") -> str:'
_WITH_NOTE = "((Order('o', note='x'),), {})"
_LARGE = "((Order('o', size=Size.LARGE),), {})"

CHANGES: Final = [
    Change(
        "a required argument is added",
        ((_ORDER, "def charge(order: Order, currency: str, rate: float) -> str:"),),
        WAITS,
        WAITS,
        GOES_ON,
        "rate|too many",
        "((Order('o'), 'EUR'), {})",
        "((Order('o'), 'EUR', 1.5), {})",
    ),
    Change(
        "an argument with a default is added, and given",
        ((_ORDER, "def charge(order: Order, currency: str = 'EUR', rate: float = 1.0) -> str:"),),
        WAITS,
        GOES_ON,
        GOES_ON,
        "rate",
        new_call="((Order('o'),), {'rate': 1.5})",
    ),
    Change(
        "an argument with a default is added, and not given",
        ((_ORDER, "def charge(order: Order, currency: str = 'EUR', rate: float = 1.0) -> str:"),),
        GOES_ON,
        GOES_ON,
        GOES_ON,
    ),
    Change(
        "an argument is removed",
        ((_ORDER, "def charge(order: Order) -> str:"),),
        GOES_ON,
        WAITS,
        GOES_ON,
        "currency",
        "((Order('o'),), {'currency': 'USD'})",
        "((Order('o'),), {})",
    ),
    Change(
        "an argument is renamed, and passed by name",
        ((_ORDER, "def charge(order: Order, unit: str = 'EUR') -> str:"),),
        WAITS,
        WAITS,
        GOES_ON,
        "unexpected keyword",
        "((Order('o'),), {'currency': 'USD'})",
        "((Order('o'),), {'unit': 'USD'})",
    ),
    Change(
        "an argument is renamed, and passed by position",
        ((_ORDER, "def charge(order: Order, unit: str = 'EUR') -> str:"),),
        GOES_ON,
        GOES_ON,
        GOES_ON,
        call="((Order('o'), 'USD'), {})",
    ),
    Change(
        "arguments change places, and are passed by position",
        ((_ORDER, "def charge(currency: str, order: Order) -> str:"),),
        WAITS,
        WAITS,
        GOES_ON,
        "argument '(order|currency)'",
        "((Order('o'), 'USD'), {})",
        "(('USD', Order('o')), {})",
    ),
    Change(
        "an argument is keyword-only now",
        ((_ORDER, "def charge(order: Order, *, currency: str = 'EUR') -> str:"),),
        GOES_ON,
        WAITS,
        GOES_ON,
        "positional",
        "((Order('o'), 'USD'), {})",
        "((Order('o'),), {'currency': 'USD'})",
    ),
    Change(
        "an argument has another type",
        ((_ORDER, "def charge(order: Order, currency: int = 1) -> str:"),),
        WAITS,
        WAITS,
        GOES_ON,
        "'currency'",
        "((Order('o'), 'USD'), {})",
        "((Order('o'), 3), {})",
    ),
    Change(
        "an argument takes more types",
        ((_ORDER, "def charge(order: Order, currency: str | int | None = None) -> str:"),),
        GOES_ON,
        GOES_ON,
        GOES_ON,
        call="((Order('o'), 'USD'), {})",
    ),
    Change(
        "a default is changed",
        ((_ORDER, "def charge(order: Order, currency: str = 'USD') -> str:"),),
        GOES_ON,
        GOES_ON,
        GOES_ON,
    ),
    Change(
        "a dataclass field with a default is added",
        (("    amount: int = 5\n", "    amount: int = 5\n    note: str = ''\n"),),
        WAITS,
        GOES_ON,
        WAITS,
        "note",
        new_call=_WITH_NOTE,
    ),
    Change(
        "a dataclass field without a default is added",
        (("    id: str\n", "    id: str\n    note: str\n"),),
        WAITS,
        WAITS,
        WAITS,
        "'note'",
        new_call=_WITH_NOTE,
    ),
    Change("a dataclass field is removed", (("    amount: int = 5\n", ""),), GOES_ON, WAITS, WAITS, "'amount'"),
    Change("a dataclass field is renamed", (("    amount: int", "    total: int"),), WAITS, WAITS, WAITS, "field"),
    Change(
        "a dataclass field has another type",
        (("    amount: int = 5", "    amount: str = 'x'"),),
        WAITS,
        WAITS,
        WAITS,
        "'amount'",
    ),
    Change(
        "a dataclass field takes more types",
        (("    amount: int = 5", "    amount: int | None = 5"),),
        GOES_ON,
        GOES_ON,
        GOES_ON,
    ),
    Change(
        "a class is renamed or moved",
        (("Order", "Purchase"),),
        WAITS,
        WAITS,
        WAITS,
        "Order|Purchase",
        new_call="((Purchase('o'),), {})",
    ),
    Change(
        "a class is moved, and its former name is registered",
        (("Order", "Purchase"), ("    raise Refused", "    raise Refused")),
        WAITS,
        GOES_ON,
        GOES_ON,
        "Purchase",
        new_call="((Purchase('o'),), {})",
    ),
    Change(
        "a member is added to an enum",
        (('    LARGE = "l"\n', '    LARGE = "l"\n    HUGE = "h"\n'),),
        WAITS,
        GOES_ON,
        GOES_ON,
        "HUGE",
        new_call="((Order('o', size=Size.HUGE),), {})",
    ),
    Change(
        "a member is removed from an enum",
        (('    LARGE = "l"\n', ""),),
        GOES_ON,
        WAITS,
        GOES_ON,
        "LARGE",
        _LARGE,
        "((Order('o'),), {})",
    ),
    Change(
        "the value of an enum's member is changed",
        (('    LARGE = "l"\n', '    LARGE = "large"\n'),),
        GOES_ON,
        GOES_ON,
        GOES_ON,
        call=_LARGE,
    ),
    Change("a task is renamed", (("def charge(", "def bill("),), WAITS, WAITS, GOES_ON, "no worker has"),
    Change(
        "a task is made a workflow",
        (("@app.task\ndef charge(order", "@app.workflow\ndef charge(run: WorkflowRun, order"),),
        WAITS,
        WAITS,
        GOES_ON,
        "this run of",
    ),
    Change("a task is removed", ((TASK, ""),), "", WAITS, GOES_ON, "no worker has"),
    Change(
        "a step is inserted behind what is done",
        (('    run.step("ship"', '    run.step("pack", ship, "x")\n    run.step("ship"'),),
        GOES_ON,
        GOES_ON,
        GOES_ON,
    ),
    Change(
        "a step is inserted before what is done",
        (("    priced = run", '    run.step("pack", ship, "x")\n    priced = run'),),
        GOES_ON,
        GOES_ON,
        WAITS,
        "pack",
    ),
    Change("a step that is done has another name", (('"price"', '"quote"'),), GOES_ON, GOES_ON, WAITS, "quote"),
    Change(
        "a step that is done has another input",
        (("price, order)", 'price, Order("p"))'),),
        GOES_ON,
        GOES_ON,
        WAITS,
        "price",
    ),
    Change(
        "a step that is done is removed",
        (('    try:\n        run.step("ask", ask, order)\n    except Refused:\n        pass\n', ""),),
        GOES_ON,
        GOES_ON,
        WAITS,
        "ask",
    ),
    Change("an exception that was raised is renamed", (("Refused", "Declined"),), GOES_ON, GOES_ON, WAITS, "Refused"),
    Change(
        "the body of a step is changed",
        (("    return order\n", "    return Order(order.id, 6)\n"),),
        GOES_ON,
        GOES_ON,
        GOES_ON,
    ),
]
