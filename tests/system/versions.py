"""Two releases of one task, each in an app of its own."""

from aiki import Aiki

one = Aiki("one")
two = Aiki("two")


@one.task(name="versions.told", version="1")
def told_one() -> str:
    return "one"


@two.task(name="versions.told", version="2")
def told_two() -> str:
    return "two"
