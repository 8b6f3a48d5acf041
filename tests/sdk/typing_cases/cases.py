"""What type checkers must say of code that uses Aiki. A comment `# E: text` expects an error with that text in its line."""

from __future__ import annotations

import asyncio
from typing import assert_type

from aiki import Aiki, AsyncTask, Handle, RetryPolicy, Task

app = Aiki("shop")


@app.task
def charge(order: str, cents: int = 5) -> float:
    return 1.0


@app.task(queue="mail", retry=RetryPolicy.fixed())
async def mail(to: str) -> list[int]:
    return [1]


assert_type(charge("o", cents=1), float)
assert_type(charge.fn("o"), float)
assert_type(charge.enqueue("o", cents=1), Handle[float])
assert_type(charge.delay("o"), Handle[float])
assert_type(charge.apply_async(("o",)), Handle[float])
assert_type(charge.options(countdown=3).enqueue("o").result(), float)
assert_type(charge.enqueue_many([("o",), charge.call("o", 1)]), list[Handle[float]])
assert_type(mail.enqueue("a"), Handle[list[int]])
assert_type(mail.options(queue="x").enqueue("a").result(timeout=None), list[int])

charge.enqueue()  # E: Missing positional argument "order"
charge.enqueue(1)  # E: incompatible type "int"; expected "str"
charge.enqueue("o", cent=1)  # E: Unexpected keyword argument "cent"
charge.delay("o", "x")  # E: incompatible type "str"; expected "int"
charge.call("o", "x")  # E: incompatible type "str"; expected "int"
charge.options(countdown=1).enqueue(None)  # E: incompatible type "None"; expected "str"
charge("o", 1, 2)  # E: Too many arguments
mail.enqueue(b"a")  # E: incompatible type "bytes"; expected "str"
charge.options(countdown="3")  # E: incompatible type "str"
text: str = charge.enqueue("o").result()  # E: expression has type "float"


@app.task(max_retires=3)  # E: Unexpected keyword argument "max_retires"
def wrong() -> None: ...


async def main() -> None:
    assert_type(await mail("a"), list[int])
    assert_type(await mail.aenqueue("a"), Handle[list[int]])
    assert_type(await (await mail.aenqueue("a")).aresult(), list[int])
    assert_type(await charge.aenqueue("o"), Handle[float])
    await charge.aenqueue(2)  # E: incompatible type "int"; expected "str"


def takes(task: Task[[str], list[int]], other: AsyncTask[[str], list[int]]) -> None:
    task.enqueue("a")


takes(mail, mail)
asyncio.run(main())
