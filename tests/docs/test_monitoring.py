"""The Grafana dashboard and the alert rules: what they ask for is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from aiki.api import create_app
from aiki.api.app import backend_of
from aiki.model import DefinitionInfo, NewRun
from aiki.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "docs" / "monitoring"
METRIC = re.compile(r"\baiki_[a-z0-9_]+")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The metrics of a server, with the names of their labels."""
    from aiki import codec, ids

    folder = tmp_path_factory.mktemp("metrics")
    settings = Settings.load({}, database_url=f"sqlite:///{folder}/aiki.db", broker_url=f"sqlite:///{folder}/broker.db")
    app = create_app(settings)
    backend = backend_of(app)
    store = backend.store
    store.register_definitions([DefinitionInfo("a")])
    run = NewRun(str(ids.new_id()), "a", codec.encode([[], {}]))
    store.create_runs([run])
    store.create_webhook("https://x.example", states=["cancelled"], names=[], secret="s" * 16)
    store.cancel_run(run.id)
    store.create_runs([NewRun(str(ids.new_id()), "a", codec.encode([[], {}]))])
    store.save_orchestrator("ab" * 16, "alive", "host", 1, "1")
    store.pause_queue("default", actor="ann")
    store.fold_tallies()
    from aiki.broker import open_broker, reports, work

    session = open_broker(settings.broker_url).connect("test")
    session.send(work("default", "default"), b"[]")
    session.subscribe(reports(0), 1)
    session.receive(0.0)
    app.test_client().get("/healthz")
    text = app.test_client().get("/metrics").text
    session.close()
    backend.close()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> list[str]:
    dashboard = json.loads((HERE / "grafana-dashboard.json").read_text())
    rules = yaml.safe_load((HERE / "alerts.yaml").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found += [item["query"] for item in dashboard["templating"]["list"] if item["type"] == "query"]
    found += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return found


def test_every_metric_that_they_use_is_exported_with_its_labels(exported: dict[str, set[str]]) -> None:
    for expression in expressions():
        for name in METRIC.findall(expression):
            assert name in exported, f"{name} in {expression}"
        for name, selectors in re.findall(r"\b(aiki_[a-z0-9_]+)\{([^}]*)\}", expression):
            for label in re.findall(r"([a-z_]+)\s*(?:=~|!=|=)", selectors):
                assert label in exported[name], f"{label} of {name} in {expression}"
        labels = set.union(*(exported[name] for name in METRIC.findall(expression)))
        for by in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
            assert {label.strip() for label in by.split(",")} <= labels, expression


def test_brackets_are_closed_and_panels_do_not_overlap() -> None:
    for expression in expressions():
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), expression
    panels: list[dict[str, Any]] = json.loads((HERE / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (p["gridPos"]["x"] + dx, p["gridPos"]["y"] + dy)
        for p in panels
        for dx in range(p["gridPos"]["w"])
        for dy in range(p["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert all(x < 24 for x, _ in places)


def test_every_alert_and_every_metric_is_in_the_guide(exported: dict[str, set[str]]) -> None:
    guide = (ROOT / "docs" / "guides" / "monitoring.md").read_text()
    rules = yaml.safe_load((HERE / "alerts.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert f"`{rule['alert']}`" in guide, rule["alert"]
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"]["summary"]
    for name in exported:
        base = re.sub(r"_(bucket|count|sum|created)$", "", name)
        assert base in guide or name in guide, f"{name} is not told of"
