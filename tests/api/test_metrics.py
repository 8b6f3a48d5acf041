"""`/metrics`: what it tells, who may ask, and what asking costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.test import TestResponse

from aiki.api import metrics, series
from aiki.model import DefinitionInfo
from aiki.settings import Settings
from aiki.storage.statistics import Totals
from aiki.storage.tallying import COLUMNS
from tests.api.conftest import Api, problem
from tests.api.live import LiveServer


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(api: Api, **headers: str) -> TestResponse:
    return api.http.get("/metrics", headers=headers)


def test_runs_by_state_and_the_age_of_queues(api: Api) -> None:
    for _ in range(3):
        api.new_run()
    answer = scrape(api)
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    found = values(answer.text)
    assert found["aiki_runs", (("namespace", "default"), ("state", "queued"))] == 3
    assert found["aiki_runs", (("namespace", "default"), ("state", "running"))] == 0
    assert 0 <= found["aiki_queue_oldest_seconds", (("namespace", "default"), ("queue", "default"))] < 60
    assert found["aiki_up", (("part", "database"),)] == 1
    assert found["aiki_up", (("part", "broker"),)] == 1
    assert found["aiki_http_request_duration_seconds_count", labels("runs.enqueue", "POST", "2xx")] == 3


def labels(endpoint: str, method: str, status: str) -> tuple[tuple[str, str], ...]:
    return (("endpoint", endpoint), ("method", method), ("status", status))


def test_openmetrics_is_given_to_those_who_ask_for_it(api: Api) -> None:
    answer = scrape(api, Accept="application/openmetrics-text; version=1.0.0")
    assert answer.mimetype == "application/openmetrics-text"
    assert answer.text.endswith("# EOF\n")


def test_many_scrapes_look_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    ask = metrics.Observer._look
    monkeypatch.setattr(metrics.Observer, "_look", lambda self: looked.append(1) or ask(self))
    for _ in range(5):
        assert scrape(api).status_code == 200
    assert len(looked) == 1


def test_addresses_that_do_not_exist_make_one_series(api: Api) -> None:
    for path in ("/a", "/b", "/../c"):
        api.http.get(path)
    found = values(scrape(api).text)
    assert found["aiki_http_request_duration_seconds_count", labels("none", "GET", "4xx")] == 3


def test_a_token_of_its_own_opens_the_metrics_and_nothing_else(make_api: Callable[..., Api]) -> None:
    api = make_api(api_key="the-key", metrics_token="the-token")
    problem(scrape(api), 401, "unauthorized")
    problem(scrape(api, Authorization="Bearer wrong"), 401, "unauthorized")
    assert scrape(api, Authorization="Bearer the-token").status_code == 200
    assert scrape(api, Authorization="Bearer the-key").status_code == 200
    problem(api.get("/runs", headers={"Authorization": "Bearer the-token"}), 401, "unauthorized")


def test_a_broker_that_is_away_is_told_of(make_api: Callable[..., Api], free_port: Callable[[], int]) -> None:
    api = make_api(broker_url=f"amqp://guest:guest@127.0.0.1:{free_port()}//")
    found = values(scrape(api).text)
    assert found["aiki_up", (("part", "broker"),)] == 0
    assert found["aiki_up", (("part", "database"),)] == 1
    assert found["aiki_outbox_deliveries", ()] == 0


def test_a_database_that_is_away_is_told_of(make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> None:
    from aiki.errors import StorageUnavailable
    from aiki.storage import Store

    def away(self: Store) -> None:
        raise StorageUnavailable("it is away")

    api = make_api()
    monkeypatch.setattr(Store, "gauge", away)
    found = values(scrape(api).text)
    assert found["aiki_up", (("part", "database"),)] == 0
    assert not [name for name, _ in found if name == "aiki_runs"]


def test_what_ended_is_counted_and_how_long_it_took(api: Api) -> None:
    before = values(scrape(api).text)
    assert ("aiki_runs_ended_total", ended("cancelled")) not in before
    for _ in range(3):
        api.post(f"/runs/{api.new_run()}/cancel", {})
    api.store.fold_tallies()
    found = values(fresh(api).text)
    assert found["aiki_runs_ended_total", ended("cancelled")] == 3
    assert found["aiki_runs_ended_total", ended("failed")] == 0
    assert found["aiki_run_running_seconds_count", (("name", "shop.charge"), ("namespace", "default"))] == 0


def ended(outcome: str) -> tuple[tuple[str, str], ...]:
    return (("name", "shop.charge"), ("namespace", "default"), ("outcome", outcome))


def fresh(api: Api) -> TestResponse:
    """What is there now, not what was seen some seconds ago."""
    metrics.metrics_of(api.http.application).observer._until = 0.0
    return scrape(api)


def test_names_beyond_so_many_are_told_together() -> None:
    rows = [(f"n{n}", "q", [n, 1, *[0] * (len(COLUMNS) - 2)]) for n in range(series.MAX_NAMES + 20)]
    summed = series._summed(Totals(0, rows), 0)
    assert len(summed) == series.MAX_NAMES + 1
    assert summed["other"][1] == 20
    assert sum(sums[1] for sums in summed.values()) == len(rows)


def test_server_processes_add_up_what_they_measure(live: Callable[..., LiveServer]) -> None:
    server = live(AIKI_WORKERS="2").wait_ready()
    for _ in range(20):
        # A connection each, so that both processes get some.
        server.http.clear()
        assert server.ask("GET", "/api/v1/definitions")[0] == 200
    text = server.http.request("GET", server.url + "/metrics").data.decode()
    assert values(text)["aiki_http_request_duration_seconds_count", labels("roster.definitions", "GET", "2xx")] == 20
    assert values(text)["aiki_http_requests_held", ()] == 0


def test_the_token_is_a_setting() -> None:
    assert Settings.load({"AIKI_METRICS_TOKEN": "x"}).metrics_token == "x"


def test_a_key_for_some_namespaces_sees_no_others(make_api: Callable[..., Api]) -> None:
    api = make_api(api_key="the-master-key")
    api.store.register_definitions([DefinitionInfo("a")])
    api.store.of("other").register_definitions([DefinitionInfo("a")])
    key, _ = api.store.add_key("narrow", "viewer", ["other"])
    found = values(scrape(api, Authorization=f"Bearer {key}").text)
    namespaces = {dict(labels).get("namespace") for _, labels in found}
    assert namespaces == {"other", None}
    assert not [name for name, _ in found if name.startswith(("aiki_outbox", "aiki_report_queue"))]
