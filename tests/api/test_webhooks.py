"""The endpoints of webhooks."""

from __future__ import annotations

import pytest

from tests.api.conftest import Api, problem

URL = "https://hooks.example.com/aiki?x=1"


def test_made_listed_switched_off_and_taken_away(api: Api) -> None:
    made = api.post("/webhooks", {"url": URL, "states": ["failed"], "names": ["shop.*"]})
    assert made.status_code == 201, made.text
    hook = dict(made.json or {})
    assert len(hook.pop("secret")) >= 32
    assert made.headers["Location"] == f"/api/v1/webhooks/{hook['id']}"
    assert api.get("/webhooks").json == {"webhooks": [hook]}
    path = f"/webhooks/{hook['id']}"
    assert api.get(path).json == hook
    assert api.get(f"{path}/deliveries").json == {"deliveries": []}
    assert api.post(f"{path}/redeliver").json == {"redelivered": 0}
    answer = api.http.patch(f"/api/v1{path}", json={"enabled": False})
    assert answer.json == {**hook, "enabled": False}
    assert api.http.delete(f"/api/v1{path}").status_code == 204
    problem(api.get(path), 404, "not_found")


def test_it_is_told_of_failed_and_dead_runs_unless_it_says(api: Api) -> None:
    made = api.post("/webhooks", {"url": URL, "secret": "0123456789abcdef"}).json
    assert made is not None
    assert (made["states"], made["names"], made["secret"]) == (["failed", "dead"], [], "0123456789abcdef")


def test_each_change_is_audited_without_the_secret_and_the_query(api: Api) -> None:
    made = api.post("/webhooks", {"url": URL}).json
    assert made is not None
    api.http.patch(f"/api/v1/webhooks/{made['id']}", json={"enabled": False})
    api.http.delete(f"/api/v1/webhooks/{made['id']}")
    db = api.store.db
    rows = db.read(
        lambda c: db.execute(
            c, "SELECT action, subject, detail FROM aiki_audit WHERE action LIKE 'webhook.%' ORDER BY id", ()
        ).fetchall()
    )
    assert [tuple(row[:2]) for row in rows] == [(f"webhook.{verb}", made["id"]) for verb in ("create", "disable", "delete")]
    assert made["secret"] not in str(rows)
    assert "x=1" not in str(rows)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "ftp://x.example/"}, "url"),
        ({"url": "https://user:pw@x.example/"}, "url"),
        ({"url": "https://x.example:99999/"}, "url"),
        ({"url": "https:///path"}, "url"),
        ({"url": "https://x.example/\r\nX: y"}, "url"),
        ({"url": 5}, "url"),
        ({"url": URL, "states": []}, "states"),
        ({"url": URL, "states": ["running"]}, "states[0]"),
        ({"url": URL, "names": [""]}, "names[0]"),
        ({"url": URL, "secret": "short"}, "secret"),
        ({"url": URL, "more": 1}, "more"),
    ],
)
def test_what_is_wrong_is_told(api: Api, body: dict[str, object], field: str) -> None:
    told = problem(api.post("/webhooks", body), 400, "invalid")
    assert field in told["errors"]


def test_unknown_ids(api: Api) -> None:
    for path in ("/webhooks/nope", "/webhooks/0190aaaa-bbbb-7ccc-8ddd-000000000001"):
        problem(api.get(path), 404, "not_found")
        problem(api.get(f"{path}/deliveries"), 404, "not_found")
        problem(api.post(f"{path}/redeliver"), 404, "not_found")
        problem(api.http.delete(f"/api/v1{path}"), 404, "not_found")
        problem(api.http.patch(f"/api/v1{path}", json={"enabled": True}), 404, "not_found")
