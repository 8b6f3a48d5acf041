"""Markers are messages of Aiki's own: nobody is told that they wait in a queue."""

from __future__ import annotations

from collections.abc import Callable

from aiki.broker import open_broker, work
from aiki.messages import DispatchList
from aiki.settings import Settings
from tests.api.conftest import Api
from tests.api.test_metrics import scrape, values


def test_a_marker_is_not_counted_as_a_message(make_api: Callable[..., Api], settings: Settings) -> None:
    session = open_broker(settings.broker_url, prefix=settings.prefix).connect("test")
    api = make_api()
    api.register()
    number = api.store.next_marker("default", "default")
    assert number is not None
    session.send(work("default", "default"), DispatchList("default", "default", [], marker=number).encode())
    session.settled()
    depth = session.depth(work("default", "default"))
    assert depth is not None
    assert depth.ready == 1
    gauge = "aiki_queue_messages", (("namespace", "default"), ("queue", "default"))
    assert api.get("/queues/default").json["broker"]["ready"] == 0
    assert values(scrape(api).text)[gauge] == 0
    assert api.store.marked_queues() == api.store.marked_queues("default") == {("default", "default")}

    # What carries runs is counted; and once the marker has come out, all is.
    session.send(work("default", "default"), DispatchList("default", "default", []).encode())
    session.settled()
    later = make_api()
    assert later.get("/queues/default").json["broker"]["ready"] == 1
    assert values(scrape(later).text)[gauge] == 1
    api.store.marker_taken("default", "default", number)
    last = make_api()
    assert last.get("/queues/default").json["broker"]["ready"] == 2
    assert values(scrape(last).text)[gauge] == 2
    assert api.store.marked_queues() == set()
    session.close()
