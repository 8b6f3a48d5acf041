"""The pages of webhooks: who is told of the ends of runs, what they have not taken, and why."""

from __future__ import annotations

import secrets
from typing import Final

from flask import Response, request, url_for
from marshmallow import ValidationError

from aiki.api.access import needs, principal
from aiki.api.problems import Refused
from aiki.api.requests import store
from aiki.api.webhooks import STATES, WebhookSchema
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import done, one_of, page
from aiki.errors import AikiError
from aiki.storage.webhooks import Webhook, WebhookNotFound

_SCHEMA: Final = WebhookSchema()
_TEXTS: Final = {
    "disable": ("Switch off", "What ends while it is off it is not told.", False),
    "enable": ("Switch on", "It is told of what ends from now on.", False),
    "redeliver": ("Try again", "What it has not taken is sent to it again now.", False),
    "delete": ("Delete", "It is told nothing more, also of what it was still to be told.", True),
}


@blueprint.get("/webhooks")
@needs("webhooks.manage")
def webhooks() -> Response:
    """All webhooks of the namespace."""
    return _page()


@blueprint.post("/webhooks")
@needs("webhooks.manage")
def add_webhook() -> Response:
    """Have an address told, and show the secret that signs what it is sent, this once."""
    names = [part for part in (name.strip() for name in request.form.get("names", "").split(",")) if part]
    given = {"url": request.form.get("url", "").strip(), "states": request.form.getlist("states") or ["failed", "dead"]}
    secret = secrets.token_urlsafe(32)
    try:
        data = _SCHEMA.load({**given, "names": names})
        made = store().create_webhook(
            data["url"], states=data["states"], names=data["names"], secret=secret, actor=principal().name
        )  # fmt: skip
    except ValidationError as error:
        told = error.messages_dict
        return _page(
            "; ".join(f"{field}: {_first(text)}" for field, text in told.items()), {**given, "names": ", ".join(names)}
        )
    except AikiError as error:
        return _page(str(error), {**given, "names": ", ".join(names)})
    response = page("webhook_made.html", webhook=made, secret=secret, active="dashboard.webhooks")
    response.headers["Cache-Control"] = "no-store"
    return response


def _first(messages: object) -> str:
    while isinstance(messages, list | dict) and messages:
        messages = messages[0] if isinstance(messages, list) else next(iter(messages.values()))
    return str(messages)


def _page(problem: str = "", filled: dict[str, object] | None = None) -> Response:
    return page(
        "webhooks.html",
        webhooks=store().webhooks(),
        states=STATES,
        problem=problem,
        filled=filled or {"states": ["failed", "dead"]},
        status=400 if problem else 200,
    )


@blueprint.get("/webhooks/<webhook_id>")
@needs("webhooks.manage")
def webhook(webhook_id: str) -> Response:
    """One webhook, with what it has not taken."""
    found = _there(webhook_id)
    return page(
        "webhook.html", webhook=found, deliveries=store().webhook_deliveries(found.id), active="dashboard.webhooks"
    )  # fmt: skip


@blueprint.get("/webhooks/<webhook_id>/<verb>")
@needs("webhooks.manage")
def ask_webhook(webhook_id: str, verb: str) -> Response:
    """Ask before it is done."""
    found, (title, text, danger) = _there(webhook_id), _TEXTS[one_of(verb, _TEXTS)]
    return page(
        "confirm.html",
        title=f"{title}: {found.url}",
        text=text,
        action=url_for("dashboard.do_webhook", webhook_id=found.id, verb=verb),
        button=title,
        back=url_for("dashboard.webhook", webhook_id=found.id),
        danger=danger,
        reason=False,
        active="dashboard.webhooks",
    )


@blueprint.post("/webhooks/<webhook_id>/<verb>")
@needs("webhooks.manage")
def do_webhook(webhook_id: str, verb: str) -> Response:
    """Switch it on or off, have it told again, or delete it."""
    found, actor, verb = _there(webhook_id), principal().name, one_of(verb, _TEXTS)
    if verb == "delete":
        store().delete_webhook(found.id, actor=actor)
        return done(url_for("dashboard.webhooks"), "deleted")
    if verb == "redeliver":
        store().redeliver(found.id, actor=actor)
    else:
        store().enable_webhook(found.id, verb == "enable", actor=actor)
    return done(url_for("dashboard.webhook", webhook_id=found.id), "redelivered" if verb == "redeliver" else "changed")


def _there(webhook_id: str) -> Webhook:
    try:
        return store().webhook(webhook_id)
    except WebhookNotFound:
        raise Refused(404, "not_found", "There is no such webhook here.") from None
