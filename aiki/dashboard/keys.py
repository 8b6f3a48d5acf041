"""The page of API keys: make one, whose secret is shown once, and revoke one."""

from __future__ import annotations

from typing import Final

from flask import Response, request, url_for

from aiki.api import people
from aiki.api.access import Role, needs, principal
from aiki.api.problems import Refused
from aiki.api.requests import store
from aiki.clock import SECOND
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import done, page
from aiki.errors import AikiError, ConfigurationError
from aiki.settings import check_name

DAY: Final = 86400 * SECOND
EXPIRIES: Final = {"30": "30 days", "90": "90 days", "365": "a year", "": "never"}


@blueprint.get("/keys")
@needs("keys.manage")
def keys() -> Response:
    """API keys, newest first, revoked ones too."""
    return _page()


@blueprint.post("/keys")
@needs("keys.manage")
def add_key() -> Response:
    """Make a key, and show its secret this once."""
    form = request.form.to_dict()
    try:
        days = form.get("days", "")
        if days and days not in EXPIRIES:
            raise ConfigurationError(f"expires: {days[:20]!r} is not one of the choices")
        expires = store().clock() + int(days) * DAY if days else None
        scope = people.granted(namespaces_of(form.get("namespaces", "")))
        role = role_of(form.get("role", ""))
        secret, key = store().add_key(
            form.get("name", "").strip(), role, scope, expires_at=expires, actor=principal().name
        )  # fmt: skip
    except (AikiError, Refused) as error:
        return _page(problem=problem_of(error), filled=form)
    response = page("key_made.html", secret=secret, key=key, active="dashboard.keys")
    response.headers["Cache-Control"] = "no-store"
    return response


def _page(problem: str = "", filled: dict[str, str] | None = None) -> Response:
    return page(
        "keys.html",
        keys=people.visible_keys(),
        roles=[role.value for role in Role],
        expiries=EXPIRIES,
        problem=problem,
        filled=filled or {"role": "operator", "days": "90", "namespaces": store().namespace},
        status=400 if problem else 200,
    )


@blueprint.get("/keys/<key_id>/revoke")
@needs("keys.manage")
def ask_revoke_key(key_id: str) -> Response:
    """Ask before a key is revoked."""
    found = next((key for key in people.visible_keys() if key.id == key_id), None)
    if found is None:
        raise Refused(404, "not_found", "There is no such key here.")
    return page(
        "confirm.html",
        title=f"Revoke the key {found.name}",
        text="Whoever uses it is refused from within a second on. A revoked key does not come back.",
        action=url_for("dashboard.revoke_key", key_id=found.id),
        button="Revoke",
        back=url_for("dashboard.keys"),
        danger=True,
        reason=False,
        active="dashboard.keys",
    )


@blueprint.post("/keys/<key_id>/revoke")
@needs("keys.manage")
def revoke_key(key_id: str) -> Response:
    """Have a key open nothing any more."""
    people.revoke(key_id)
    return done(url_for("dashboard.keys"), "revoked")


# ---------------------------------------------------------------- what keys and users share
def namespaces_of(text: str) -> list[str] | None:
    """Namespaces as they are typed, by commas; None, for all, if there are none."""
    names = [name for name in (part.strip() for part in text.split(",")) if name]
    return [check_name("namespace", name) for name in names] or None


def role_of(text: str) -> str:
    """A role that a form chose; raises `ConfigurationError`."""
    if text not in {role.value for role in Role}:
        raise ConfigurationError(f"role: {text[:20]!r} is not one of {', '.join(Role)}")
    return text


def problem_of(error: Exception) -> str:
    """What to say of an error that a form can mend."""
    return error.detail if isinstance(error, Refused) else str(error)
