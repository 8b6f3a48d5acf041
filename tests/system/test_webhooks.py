"""Webhooks in real processes, some of which are killed."""

from __future__ import annotations

import json
from collections import Counter

from tests.orchestrator.test_webhooks import Endpoint
from tests.system.system import System
from tests.waiting import wait_until


def test_every_end_is_told_whatever_is_killed(real_system: System) -> None:
    system = real_system
    system.env["AIKI_WEBHOOK_PRIVATE"] = "1"
    endpoint = Endpoint()
    try:
        system.store.create_webhook(endpoint.url, states=["completed"], names=["shop.marked"], secret="s" * 16)
        running = [system.orchestrator(), system.orchestrator()]
        system.worker(concurrency=2)
        app = system.app()
        handles = app.definitions["shop.marked"].enqueue_many([(i,) for i in range(400)])
        for victim in running:
            seen = len(endpoint.got)
            wait_until(lambda seen=seen: len(endpoint.got) > seen + 20, 60, "some to be told")
            victim.kill9()
            system.orchestrator()
        expected = {handle.id for handle in handles}

        def told() -> Counter[str]:
            return Counter(json.loads(body)["run"]["run_id"] for _, body in endpoint.got)

        system.wait_states(120, completed=400)
        # What a killed process had claimed is due again after two minutes: here, at once.
        hook = system.store.webhooks()[0]
        wait_until(lambda: expected <= set(told()) or not system.store.redeliver(hook.id), 60, "claims to be let go")
        assert set(told()) == expected
        by_run: dict[str, set[str]] = {}
        for _, body in endpoint.got:
            found = json.loads(body)
            by_run.setdefault(found["run"]["run_id"], set()).add(found["id"])
        assert all(len(events) == 1 for events in by_run.values())
    finally:
        endpoint.close()
