"""The endpoints of webhooks: addresses that are notified when runs end."""

from __future__ import annotations

import secrets
from typing import Any, Final
from urllib.parse import urlsplit

from flask import Blueprint, Response, url_for
from marshmallow import fields, validate

from aiki.api import field_checks
from aiki.api.access import needs, principal
from aiki.api.answers import Answer, a_time, an_id
from aiki.api.openapi import describe
from aiki.api.problems import Refused, answer
from aiki.api.requests import body, store
from aiki.client import wire
from aiki.states import TERMINAL
from aiki.storage.webhooks import TooManyWebhooks, Webhook, WebhookDelivery, WebhookNotFound

blueprint = Blueprint("webhooks", __name__)

STATES: Final = sorted(str(state) for state in TERMINAL)


def _url(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 2000 or not value.isascii() or not value.isprintable():
        raise ValueError("it must be a URL of at most 2000 printable ASCII characters")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or " " in value:
        raise ValueError("it must begin with https:// or http:// and name a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("it must have no user, password or fragment; the signature says who calls")
    return value


def _state(value: Any) -> str:
    if value not in STATES:
        raise ValueError(f"a webhook is told of {', '.join(STATES)}")
    return str(value)


def _pattern(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 200 or not value.isprintable():
        raise ValueError("it must be a name or a pattern such as shop.*, of at most 200 characters")
    return value


def _secret(value: Any) -> str:
    if not isinstance(value, str) or not 16 <= len(value) <= 255 or not value.isascii() or not value.isprintable():
        raise ValueError("it must be 16 to 255 printable ASCII characters; leave it out to have one made")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


class WebhookSchema(field_checks.Strict):
    """A new webhook."""

    url = field_checks.Checked(_url, shape={"type": "string", "format": "uri", "maxLength": 2000}, required=True)
    states = fields.List(field_checks.Checked(_state, shape={"type": "string", "enum": STATES}), validate=validate.Length(1, 4))
    names = fields.List(
        field_checks.Checked(_pattern, shape={"type": "string", "minLength": 1, "maxLength": 200}),
        validate=validate.Length(0, 50),
    )
    secret = field_checks.Checked(_secret, shape={"type": "string", "minLength": 16, "maxLength": 255})


class WebhookChange(field_checks.Strict):
    """What can be changed."""

    enabled = field_checks.Checked(_boolean, shape={"type": "boolean"}, required=True)


class WebhookAnswer(Answer):
    """A webhook. `names`: patterns, none for all. `waiting` and `given_up` count what it has not taken."""

    id = an_id()
    url = fields.String()
    states = fields.List(fields.String(validate=validate.OneOf(STATES)))
    names = fields.List(fields.String())
    enabled = fields.Boolean()
    created_at = a_time()
    created_by = fields.String()
    delivered_at = a_time(allow_none=True)
    failed_at = a_time(allow_none=True)
    error = fields.String(allow_none=True)
    waiting = fields.Integer()
    given_up = fields.Integer()
    secret = fields.String(metadata={"optional": True, "description": "Told once, when the webhook is made."})


class WebhooksAnswer(Answer):
    """All webhooks of the namespace."""

    webhooks = fields.List(fields.Nested(WebhookAnswer))


class WebhookDeliveryAnswer(Answer):
    """What a webhook has not taken. `due_at` null: given up."""

    id = an_id()
    run_id = an_id()
    attempts = fields.Integer()
    due_at = a_time(allow_none=True)
    error = fields.String(allow_none=True)
    created_at = a_time()


class WebhookDeliveriesAnswer(Answer):
    """The newest of them, at most 100."""

    deliveries = fields.List(fields.Nested(WebhookDeliveryAnswer))


class RedeliveredAnswer(Answer):
    """How many are tried again."""

    redelivered = fields.Integer()


_NEW: Final = WebhookSchema()
_CHANGE: Final = WebhookChange()
_EXAMPLE: Final = {"url": "https://hooks.example.com/aiki", "states": ["failed", "dead"], "names": ["shop.*"]}


@blueprint.post("/webhooks")
@needs("webhooks.manage")
@describe(body=_NEW, answers={201: WebhookAnswer}, errors=("conflict",), example=_EXAMPLE, secret=True)
def create() -> Response:
    """Have an address told of the ends of runs.

    Without `states` it is told of failed and dead ones. The answer has the secret that signs what it is sent, this once.
    """
    data = body(_NEW)
    secret = data.get("secret") or secrets.token_urlsafe(32)
    asked = {"states": data.get("states") or ["failed", "dead"], "names": data.get("names") or []}
    try:
        made = store().create_webhook(data["url"], **asked, secret=secret, actor=principal().name)
    except TooManyWebhooks as error:
        raise Refused(409, "conflict", str(error)) from None
    response = answer({**_webhook(made), "secret": secret}, 201)
    response.headers["Location"] = url_for("webhooks.show", webhook_id=made.id)
    return response


@blueprint.get("/webhooks")
@needs("webhooks.manage")
@describe(answer=WebhooksAnswer)
def listed() -> Response:
    """All webhooks."""
    return answer({"webhooks": [_webhook(item) for item in store().webhooks()]})


@blueprint.get("/webhooks/<webhook_id>")
@needs("webhooks.manage")
@describe(answer=WebhookAnswer, errors=("not_found",))
def show(webhook_id: str) -> Response:
    """One webhook."""
    with _told():
        return answer(_webhook(store().webhook(webhook_id)))


@blueprint.patch("/webhooks/<webhook_id>")
@needs("webhooks.manage")
@describe(body=_CHANGE, answer=WebhookAnswer, errors=("not_found",), example={"enabled": False})
def change(webhook_id: str) -> Response:
    """Switch a webhook on or off. What ends while it is off it is not told."""
    data = body(_CHANGE)
    with _told():
        return answer(_webhook(store().enable_webhook(webhook_id, data["enabled"], actor=principal().name)))


@blueprint.delete("/webhooks/<webhook_id>")
@needs("webhooks.manage")
@describe(answers={204: None}, errors=("not_found",))
def delete(webhook_id: str) -> Response:
    """Take a webhook away, with all that it was still to be told."""
    with _told():
        store().delete_webhook(webhook_id, actor=principal().name)
    return Response(status=204)


@blueprint.get("/webhooks/<webhook_id>/deliveries")
@needs("webhooks.manage")
@describe(answer=WebhookDeliveriesAnswer, errors=("not_found",))
def deliveries(webhook_id: str) -> Response:
    """What a webhook has not taken yet, and why not; the newest first."""
    with _told():
        store().webhook(webhook_id)
        return answer({"deliveries": [_delivery(item) for item in store().webhook_deliveries(webhook_id)]})


@blueprint.post("/webhooks/<webhook_id>/redeliver")
@needs("webhooks.manage")
@describe(answer=RedeliveredAnswer, errors=("not_found",))
def redeliver(webhook_id: str) -> Response:
    """Try again, now, what it has not taken."""
    with _told():
        return answer({"redelivered": store().redeliver(webhook_id, actor=principal().name)})


class _told:
    """A webhook that is not there, as a problem."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, WebhookNotFound):
            raise Refused(404, "not_found", str(error)[:200]) from None


def _webhook(item: Webhook) -> dict[str, Any]:
    return {
        "id": item.id,
        "url": item.url,
        "states": list(item.states),
        "names": list(item.names),
        "enabled": item.enabled,
        "created_at": wire.time_to_json(item.created_at),
        "created_by": item.created_by,
        "delivered_at": wire.time_to_json(item.delivered_at),
        "failed_at": wire.time_to_json(item.failed_at),
        "error": item.error,
        "waiting": item.waiting,
        "given_up": item.given_up,
    }


def _delivery(item: WebhookDelivery) -> dict[str, Any]:
    return {
        "id": item.id,
        "run_id": item.run_id,
        "attempts": item.attempts,
        "due_at": wire.time_to_json(item.due_at),
        "error": item.error,
        "created_at": wire.time_to_json(item.created_at),
    }
