"""Retry policies: who is tried again, when, and what of it passes over the wire."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki.errors import ConfigurationError
from aiki.retry import MAX_DELAY, RetryPolicy, qualified_name


class Declined(Exception):
    pass


class CardDeclined(Declined):
    pass


policies = st.builds(
    RetryPolicy.exponential,
    st.integers(1, 50),
    st.floats(0, 3600),
    factor=st.floats(1, 100),
    max_delay=st.floats(0, MAX_DELAY),
    jitter=st.floats(0, 1),
    retry_on=st.lists(st.sampled_from([ValueError, "shop.Declined"]), max_size=2).map(tuple),
    give_up_on=st.lists(st.sampled_from([KeyError, "shop.Never"]), max_size=2).map(tuple),
)


@given(policies)
def test_a_policy_comes_back_from_the_wire(policy: RetryPolicy) -> None:
    assert RetryPolicy.from_wire(policy.to_wire()) == policy


@given(policies, st.integers(1, 10**6), st.sampled_from([-1.0, 0.0, 1.0]))
def test_a_delay_is_finite_and_within_its_jitter(policy: RetryPolicy, attempt: int, edge: float) -> None:
    delay = policy.next_delay(ValueError(), attempt, lambda low, high: (low + high) / 2 + edge * (high - low) / 2)
    if delay is not None:
        assert math.isfinite(delay)
        assert 0 <= delay <= policy.max_delay * (1 + policy.jitter) + 1e-6
        assert attempt < policy.max_attempts


def test_never_is_one_attempt() -> None:
    assert RetryPolicy.never().next_delay(ValueError(), 1) is None
    assert RetryPolicy.never().to_wire() == {}


def test_fixed_and_exponential_delays() -> None:
    fixed = RetryPolicy.fixed(3, 2.5)
    assert [fixed.next_delay(ValueError(), n) for n in (1, 2, 3)] == [2.5, 2.5, None]
    rising = RetryPolicy.exponential(6, 1.0, factor=3, max_delay=10, jitter=0)
    assert [rising.next_delay(ValueError(), n) for n in (1, 2, 3, 4, 5, 6)] == [1, 3, 9, 10, 10, None]
    assert RetryPolicy.exponential(10**9, jitter=0).next_delay(ValueError(), 10**8) == 3600


def test_jitter_spreads_around_the_delay() -> None:
    policy = RetryPolicy.fixed(5, 10, jitter=0.2)
    assert policy.next_delay(ValueError(), 1, lambda low, high: low) == 8
    assert policy.next_delay(ValueError(), 1, lambda low, high: high) == 12
    assert all(8 <= (policy.next_delay(ValueError(), 1) or 0) <= 12 for _ in range(100))


def test_by_type_and_its_subclasses() -> None:
    policy = RetryPolicy.fixed(3, 1, retry_on=(Declined, "ConnectionError"), give_up_on=(CardDeclined,))
    assert policy.next_delay(Declined(), 1) == 1
    assert policy.next_delay(ConnectionResetError(), 1) == 1
    assert policy.next_delay(ValueError(), 1) is None
    assert policy.next_delay(CardDeclined(), 1) is None  # giving up wins


def test_names_of_types() -> None:
    assert qualified_name(ValueError) == "ValueError"
    assert qualified_name(Declined) == f"{__name__}.Declined"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RetryPolicy(max_attempts=0), "max_attempts=0"),
        (lambda: RetryPolicy.fixed(3, -1), "delay=-1"),
        (lambda: RetryPolicy.fixed(3, math.nan), "delay=nan"),
        (lambda: RetryPolicy.fixed(3, math.inf), "delay=inf"),
        (lambda: RetryPolicy.fixed(3, jitter=2), "jitter=2"),
        (lambda: RetryPolicy.exponential(factor=0.5), "factor=0.5"),
        (lambda: RetryPolicy.exponential(factor=math.nan), "factor=nan"),
        (lambda: RetryPolicy.exponential(max_delay=1e12), "max_delay"),
        (lambda: RetryPolicy.fixed(retry_on=(1,)), "1 is not an exception type"),  # type: ignore[arg-type]
        (lambda: RetryPolicy.from_wire({"max_retries": 3}), "not a retry policy"),
        (lambda: RetryPolicy.from_wire({"max_attempts": "3"}), "max_attempts"),
        (lambda: RetryPolicy.from_wire({"delay": None}), "delay"),
    ],
)
def test_nonsense_is_refused_where_it_is_written(make: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()
