"""What the guide of determinism says of changed policies."""

from __future__ import annotations

from aiki import Aiki, RetryPolicy
from tests.replay.host import World
from tests.replay.shop import Flaky, slow


def test_changed_policies_and_limits_are_no_part_of_what_a_step_is() -> None:
    world = World()
    Flaky.script = [ValueError("1"), "second"]
    assert world.call(lambda run: slow(1)).kind == "suspended"
    world.move(10)
    options = {"retry": RetryPolicy.fixed(9, 1), "time_limit": 7, "soft_time_limit": 3}
    changed = Aiki("another").task(name=slow.name, **options)(slow.fn)  # the next release of it
    assert world.call(lambda run: changed(1)).value == "second"
    assert [attempt for _, _, attempt in world.executed] == [1, 2]
    assert world.call(lambda run: changed(1)).value == "second"
    assert len(world.executed) == 2, "what is recorded is not done again"
