"""The database dies, hangs and comes back under a running server."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiki.storage import upgrade
from tests.api.live import LiveServer
from tests.services import MariaServer
from tests.waiting import wait_until

DEADLINE = 12.0
"""Seconds: the database's time-out of 5, twice (a connection that is found dead is tried once more), and some."""


def test_a_database_that_is_away_is_503_and_comes_back(live: Callable[..., LiveServer], own_maria: MariaServer) -> None:
    url = own_maria.create_database()
    upgrade(url)
    server = live(AIKI_DATABASE_URL=url, AIKI_TIMEOUT="3").wait_ready()
    server.ask("POST", "/api/v1/definitions", {"definitions": [{"name": "shop.charge"}]})
    accepted = [server.ask("POST", "/api/v1/runs", {"name": "shop.charge"})[2]["id"]]

    for take_away, bring_back in ((own_maria.kill9, own_maria.start), (own_maria.sigstop, own_maria.sigcont)):
        take_away()
        try:
            for method, path, body in (
                ("POST", "/api/v1/runs", {"name": "shop.charge"}),
                ("GET", f"/api/v1/runs/{accepted[0]}?wait=1", None),
                ("GET", "/api/v1/runs", None),
            ):
                began = time.monotonic()
                status, headers, told = server.ask(method, path, body)
                assert time.monotonic() - began < DEADLINE
                assert (status, told["code"]) == (503, "unavailable")
                assert int(headers["Retry-After"]) >= 1
            assert server.ask("GET", "/readyz")[0] == 503
            assert server.ask("GET", "/healthz")[0] == 200
        finally:
            bring_back()
        wait_until(lambda: server.ask("GET", "/readyz")[0] == 200, 30, "the server to be ready again")
        status, _, made = server.ask("POST", "/api/v1/runs", {"name": "shop.charge"})
        assert status == 201
        accepted.append(made["id"])
        assert all(server.ask("GET", f"/api/v1/runs/{run_id}")[0] == 200 for run_id in accepted)
    assert server.stop() == 0
