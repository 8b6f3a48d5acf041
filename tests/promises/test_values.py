"""What the guides say of arguments, results and their size."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest

from aiki import Aiki, RetryLater, RetryPolicy, messages
from aiki.codec import encode
from aiki.errors import EncodeError
from tests.worker.test_executor import Bench, bench, raiser

__all__ = ["bench"]


def test_quotes_and_backslashes_take_two_bytes_in_a_message() -> None:
    plain, quoted = encode("x" * 1000), encode('"' * 1000)
    assert len(quoted.text) == len(plain.text) + 1000  # in the payload
    in_message = [len(json.dumps(payload.text)) for payload in (plain, quoted)]
    # Each \" of the payload has a backslash and a quote, which take two bytes each.
    assert in_message[1] - in_message[0] == 3000


def test_asking_for_another_attempt_is_not_limited_by_the_policy(bench: Bench) -> None:
    policy = RetryPolicy.fixed(2, 1.0)
    assert bench.run(raiser(ValueError()), retry=policy, attempt=50).kind == messages.FAILED
    got = bench.run(raiser(RetryLater(3)), retry=policy, attempt=50)
    assert (got.kind, got.body["delay"]) == (messages.RETRY, 3.0)


def test_a_result_that_cannot_be_carried_is_not_tried_again(bench: Bench) -> None:
    got = bench.run(object, retry=RetryPolicy.fixed(5, 1.0))
    assert got.kind == messages.FAILED
    assert got.body["message"].startswith("the work was done, and only its result is lost")


class Secret:
    """As pydantic's: what it holds is not written down by accident."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret('**********')"


def test_what_hides_its_text_is_refused_and_not_written_down() -> None:
    with pytest.raises(EncodeError) as refused:
        encode({"key": Secret("hunter2")})
    assert "hunter2" not in str(refused.value)
    with pytest.raises(EncodeError) as refused:
        encode([pydantic.SecretStr("hunter2")])
    assert "hunter2" not in str(refused.value)


def test_encode_and_decode_are_tried_on_each_value() -> None:
    app = Aiki("promises")

    class Money:
        def __init__(self, amount: int) -> None:
            self.amount = amount

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Money) and other.amount == self.amount

        def __hash__(self) -> int:
            return self.amount

    Money.__qualname__ = "Money"
    globals()["Money"] = Money

    def decode(data: Any) -> Money:
        return Money(min(data, 100))

    app.register_type(Money, encode=lambda money: money.amount, decode=decode)
    encode(Money(99))
    with pytest.raises(EncodeError, match="Money"):
        encode(Money(101))
