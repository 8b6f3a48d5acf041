"""Tasks and errors that the tests' workflows use."""

from __future__ import annotations

from typing import Any, ClassVar

from aiki import Aiki, RetryPolicy
from aiki.errors import RetryLater

app = Aiki("replay")


class CardDeclined(Exception):
    """Can be made anew from its arguments."""


class Detailed(Exception):
    """Its second argument is kept beside `args`, so that it cannot be made anew."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@app.task(name="shop.a")
def a(n: int = 0, note: str = "") -> str:
    return f"a{n}{note}"


@app.task(name="shop.b")
def b(n: int = 0) -> str:
    return f"b{n}"


@app.task(name="shop.c")
def c(n: int = 0) -> str:
    return f"c{n}"


@app.task(name="shop.take")
def take(*items: Any, **named: Any) -> int:
    return len(items) + len(named)


@app.task(name="shop.fail")
def fail(message: str = "no") -> None:
    raise CardDeclined(message)


@app.task(name="shop.nested")
async def nested(n: int) -> str:
    return a(n) + b(n)


class Flaky:
    """What the next executions of `flaky` do: errors are raised, other things returned."""

    script: ClassVar[list[Any]] = []


def _scripted(*_: Any) -> Any:
    item = Flaky.script.pop(0)
    if isinstance(item, BaseException):
        raise item
    return item


@app.task(name="shop.flaky", retry=RetryPolicy.fixed(3, delay=0))
def flaky(n: int = 0) -> Any:
    return _scripted(n)


@app.task(name="shop.slow", retry=RetryPolicy.fixed(3, delay=10, give_up_on=(CardDeclined,)))
def slow(n: int = 0) -> Any:
    return _scripted(n)


@app.task(name="shop.later")
def later(n: int = 0) -> Any:
    return _scripted(n)


@app.workflow(name="shop.child")
def child(run: Any, n: int) -> str:
    return f"child{n}"


TASKS = {task.name: task for task in (a, b, c, take, fail)}

__all__ = ["RetryLater"]
