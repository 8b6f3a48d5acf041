"""Messages that are not believed are kept for people, but whoever sends them cannot fill the database with them."""

from __future__ import annotations

from pathlib import Path

from aiki.broker import DEAD, Delivery
from aiki.orchestrator.isolation import Isolation
from aiki.orchestrator.letters import FORGED, FORGED_SECONDS, Letters
from aiki.storage import Store


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/aiki.db")
    store.check_schema()
    now = 0.0
    isolation = Isolation(store, lambda: now)
    letters = Letters(store, isolation, "default", lambda body: "it is not signed", lambda: now)

    def bury(number: int, size: int = 0) -> None:
        body = b'[1,"reports",{"ns":"blue"},%d]' % number + bytes(size)
        letters.bury(Delivery(DEAD, body, False, 1, {"reason": "rejected", "queue": "reports/0"}))

    bury(0)
    bury(0)
    blue = store.of("blue")
    assert blue.dead_letter_count() == 1, "the same one is kept once"
    for number in range(2 * FORGED):
        bury(number)
    kept = blue.dead_letter_count()
    assert FORGED - 2 <= kept <= FORGED
    assert isolation.counted["forged"] > 0
    now += FORGED_SECONDS + 1
    bury(10_000, size=1_000_000)
    assert blue.dead_letter_count() == kept + 1
    newest = blue.dead_letters()[0]
    assert newest.reason == "not believed: it is not signed"
    store.close()
