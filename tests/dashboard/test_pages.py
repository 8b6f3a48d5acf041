"""The pages beside those of runs: what they show, what their forms do, and what that leaves in the audit."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from aiki import ids
from aiki.messages import Heartbeat
from aiki.storage.auditing import AuditFilter
from aiki.storage.batches import BatchState
from aiki.storage.roster import Said
from tests.dashboard.conftest import Pages

PASSWORD = "correct horse battery"


def actions(pages: Pages) -> list[tuple[str, str, str]]:
    """What the audit has, newest first: action, subject, reason."""
    return [(item.action, item.subject, item.reason) for item in pages.store.audit_log(AuditFilter())]


def save_worker(pages: Pages) -> str:
    worker = ids.new_id().hex
    run = ids.new_id().hex
    children = [{"slot": 0, "pid": 7, "run": run, "name": "shop.charge", "ms": 1500, "rss": 2048}, {"slot": 1, "pid": 8}]
    hello = {"name": "w1", "host": "host", "pid": 6, "queues": ["default"], "concurrency": 2, "version": "0.1.0"}
    hello["definitions"] = [["shop.charge", "1", "task"]]
    pages.store.save_worker(Heartbeat("default", "hello", worker, fields=hello))
    pages.store.heard("default", {worker: Said(children)})
    return worker


def test_an_empty_server_says_what_to_do(pages: Pages) -> None:
    for path, said in (
        ("/", "Nothing has run yet"),
        ("/workers", "aiki-worker -A yourmodule"),
        ("/definitions", "aiki-worker -A yourmodule"),
        ("/dead", "No run is failed or dead"),
        ("/dead/letters", "No message is unreadable"),
        ("/audit", "Nothing is recorded"),
        ("/schedules", "This release has no schedules"),
        ("/keys", "No keys yet"),
        ("/users", "No users yet"),
        ("/webhooks", "No webhooks yet"),
    ):
        assert said in pages.get(path).text, path


def test_the_overview_tells_what_needs_attention_and_what_to_do(pages: Pages) -> None:
    pages.new_run()
    text = pages.get("/").text
    assert "no orchestrator runs" in text
    assert "aiki orchestrator" in text
    part = pages.get("/?part=overview&range=7d")
    assert part.text.lstrip().startswith('<div id="overview"')
    assert 'role="img" aria-label="Runs that ended in the last 7 days: 0 completed' in part.text


def test_a_queue_is_paused_resumed_and_purged(pages: Pages) -> None:
    pages.new_run()
    pages.post("/queues/default/pause", {"reason": "<b>the bank</b>"})
    text = pages.get("/queues/default").text
    assert "&lt;b&gt;the bank&lt;/b&gt;" in text
    assert "<b>the bank" not in text
    pages.post("/queues/default/resume", {"reason": "it is back"})
    refused = pages.post("/queues/default/resume", status=400)
    assert "queue default is not paused" in refused.text
    assert "Type <strong>default</strong>" in pages.get("/queues/default/purge").text
    pages.post("/queues/default/purge", {"typed": "defualt"}, status=400)
    made = pages.post("/queues/default/purge", {"typed": "default", "reason": "sent twice"})
    batch = pages.store.batch(made.location.split("/")[2].partition("?")[0])
    assert batch is not None
    assert (batch.operation, batch.state, batch.expected) == ("cancel", BatchState.COLLECTING, 1)
    assert [item[0] for item in actions(pages)][:3] == ["batch_cancel", "resume_queue", "pause_queue"]
    pages.get("/queues/a%20b", 404)


def test_workers_their_children_and_draining_one(pages: Pages) -> None:
    worker = save_worker(pages)
    text = pages.get("/workers").text
    assert "1 of 2" in text
    assert "shop.charge" in text
    one = pages.get(f"/workers/{worker}").text
    assert "nothing" in one
    assert "2.1 MB" in one
    pages.post(f"/workers/{worker}/drain", {"reason": "new machine"})
    assert "has asked it to drain" in pages.get(f"/workers/{worker}").text
    assert actions(pages)[0][0] == "drain_worker"
    pages.get(f"/workers/{ids.new_id().hex}", 404)
    pages.get(f"/workers/{worker}/explode", 404)


def test_definitions_and_who_has_them(pages: Pages) -> None:
    pages.new_run("shop.charge")
    pages.new_run("shop.refund")
    save_worker(pages)
    assert "no worker has it" in pages.get("/definitions/shop.refund").text
    assert "no worker has it" not in pages.get("/definitions/shop.charge").text
    found = pages.get("/definitions?q=refu").text
    assert "shop.refund" in found
    assert "/definitions/shop.charge" not in found
    pages.get("/definitions/shop.nothing", 404)


def test_the_audit_is_filtered_and_paged(pages: Pages) -> None:
    for number in range(60):
        pages.store.audit("ann", "test", f"queue q{number}", reason="<i>why</i>")
    first = pages.get("/audit?actor=ann").text
    assert "&lt;i&gt;why" in first
    assert "queue q59" in first
    assert "queue q9<" not in first
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following
    second = pages.get(following[1].replace("&amp;", "&")).text
    assert "queue q9<" in second
    assert "queue q59" not in second
    assert "is not a time" in pages.get("/audit?since=soon", 400).text
    assert "queue q59" in pages.get("/audit?actor=ann&after=rubbish").text
    assert "Nothing is recorded that matches" in pages.get("/audit?actor=bob").text


def test_letters_are_discarded_and_what_cannot_go_back_is_not_requeued(pages: Pages) -> None:
    pages.store.save_dead_letter("default", "nowhere/x", "<script>no JSON", {"h": 1}, b"\xff<script>")
    (letter,) = pages.store.dead_letters()
    text = pages.get(f"/dead/letters/{letter.id}").text
    assert "&lt;script&gt;no JSON" in text
    assert "\\xff&lt;script&gt;" in text
    assert "No message is selected" in pages.get("/dead/letters/do/discard", 400).text
    refused = pages.post("/dead/letters/do/requeue", {"letter": letter.id}, status=400)
    assert "cannot be sent there again" in refused.text
    pages.post("/dead/letters/do/discard", {"letter": letter.id, "reason": "a test"})
    assert pages.store.dead_letter_count() == 0
    assert actions(pages)[0][::2] == ("discard_letters", "a test")
    pages.post("/dead/letters/do/discard", {"letter": letter.id}, status=404)


def test_all_that_failed_is_retried_only_when_it_is_typed(pages: Pages) -> None:
    pages.post("/dead/retry", {"typed": "yes"}, status=400)
    nothing = pages.post("/dead/retry", {"typed": "retry all"}, status=400)
    assert "no run matches" in nothing.text
    pages.get("/dead/failures/zz", 404)
    pages.get(f"/dead/failures/{'0' * 32}", 404)


def test_a_key_is_shown_once_and_revoked(make_pages: Callable[..., Pages]) -> None:
    pages = make_pages()
    assert "With the first key" in pages.get("/keys").text
    pages.store.add_user("ann", PASSWORD, "admin")
    sign_in(pages)
    assert "use 1 to 100" in pages.post("/keys", {"name": " ", "role": "viewer"}, status=400).text
    pages.post("/keys", {"name": "ci", "role": "god"}, status=400)
    made = pages.post("/keys", {"name": "ci", "role": "viewer", "namespaces": "default", "days": "30"}, status=200)
    secret = re.search(r"aiki_[a-z0-9]{12}_[\w-]+", made.text)
    assert secret
    assert made.headers["Cache-Control"] == "no-store"
    listed = pages.get("/keys").text
    assert secret[0] not in listed
    (key,) = pages.store.api_keys()
    assert (key.role, key.namespaces) == ("viewer", frozenset({"default"}))
    pages.post(f"/keys/{key.id}/revoke")
    assert "revoked" in pages.get("/keys").text
    pages.get("/keys/nothing/revoke", 404)


def test_who_signs_in_as_the_first_user_counts_as_that_user_at_once(make_pages: Callable[..., Pages]) -> None:
    pages = make_pages()
    pages.get("/keys")  # nobody needs to sign in yet, and the server keeps that in mind for a moment
    pages.store.add_user("ann", PASSWORD, "admin")  # by another process
    sign_in(pages)
    assert pages.http.get("/api/v1/me").get_json()["name"] == "ann"


def test_users_are_added_changed_and_removed(pages: Pages) -> None:
    assert "With the first user" in pages.get("/users").text
    pages.store.add_user("ann", PASSWORD, "admin")
    sign_in(pages)
    assert "use 1" in pages.post("/users", {"name": "bob", "password": "short", "role": "viewer"}, status=400).text
    fields = {"name": "bob", "password": PASSWORD, "role": "viewer", "namespaces": "default, other"}
    assert PASSWORD not in pages.post("/users", {**fields, "role": "x"}, status=400).text
    pages.post("/users", fields)
    pages.post("/users/bob/change", {"role": "operator", "namespaces": "default", "disabled": "1"})
    bob = pages.store.user("bob")
    assert bob is not None
    assert (bob.role, bob.namespaces, bob.disabled) == ("operator", frozenset({"default"}), True)
    assert "is the last admin" in pages.post("/users/ann/change", {"role": "viewer", "namespaces": ""}, status=400).text
    pages.post("/users/bob/remove", {"typed": "bob"})
    assert pages.store.user("bob") is None
    assert "is the last admin" in pages.post("/users/ann/remove", status=400).text


@pytest.mark.parametrize(
    ("role", "closed", "open_"),
    [
        ("viewer", ["/audit", "/keys", "/users", "/webhooks", "/settings", "/queues/default/pause"], ["/", "/queues", "/dead"]),
        (
            "operator",
            ["/keys", "/users", "/webhooks", "/settings", "/queues/default/purge"],
            ["/audit", "/queues/default/pause"],
        ),
    ],
)
def test_pages_are_for_those_who_may_see_them(pages: Pages, role: str, closed: list[str], open_: list[str]) -> None:
    pages.store.add_user("ann", PASSWORD, role)
    sign_in(pages)
    for path in closed:
        pages.get(path, 403)
    for path in open_:
        pages.get(path)
    links = re.findall(r'<li><a href="([^"]+)"', pages.get("/runs").text)
    assert not set(links) & set(closed)


def test_a_webhook_is_added_switched_off_and_deleted(pages: Pages) -> None:
    wrong = pages.post("/webhooks", {"url": "ftp://x", "states": "failed"}, status=400)
    assert "it must begin with https://" in wrong.text
    made = pages.post("/webhooks", {"url": "https://hooks.example.com/a", "states": ["failed"], "names": "shop.*"}, status=200)
    assert "It is shown this once" in made.text
    (hook,) = pages.store.webhooks()
    assert (hook.states, hook.names) == (("failed",), ("shop.*",))
    pages.post(f"/webhooks/{hook.id}/disable")
    assert not pages.store.webhook(hook.id).enabled
    pages.post(f"/webhooks/{hook.id}/redeliver")
    pages.post(f"/webhooks/{hook.id}/delete")
    assert pages.store.webhooks() == []
    pages.get(f"/webhooks/{hook.id}", 404)


def test_settings_without_secrets_and_with_checks(make_pages: Callable[..., Pages]) -> None:
    pages = make_pages(metrics_token="m-token-secret")
    text = pages.get("/settings").text
    assert "AIKI_METRICS_TOKEN" in text
    assert "m-token-secret" not in text
    assert "<th>Verdict</th>" in pages.get("/settings?check=1").text


def sign_in(pages: Pages) -> None:
    token = re.search(r'name="csrf_token" value="([^"]+)"', pages.http.get("/sign-in").text)
    assert token
    fields = {"csrf_token": token[1], "name": "ann", "password": PASSWORD, "next": "/"}
    assert pages.http.post("/sign-in", data=fields).status_code == 303
