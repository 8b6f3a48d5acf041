"""What the guide of the HTTP API says of how often one may ask."""

from __future__ import annotations

from aiki.api.limiting import Limiter


def test_each_principal_may_ask_so_often_a_second_and_twice_as_often_at_once() -> None:
    now = [0.0]
    limiter = Limiter(10.0, lambda: now[0])
    assert [limiter.wait("ann") for _ in range(20)] == [0.0] * 20
    assert 0 < limiter.wait("ann") <= 0.1
    assert limiter.wait("bob") == 0.0
    now[0] = 1.0
    assert [limiter.wait("ann") > 0 for _ in range(11)] == [False] * 10 + [True]
    assert not any(Limiter(0.0).wait("ann") for _ in range(10_000))
