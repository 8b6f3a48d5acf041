"""The endpoints of API keys, users, the audit, and of who asks.

An admin of some namespaces manages the users and keys that see no others; those of others are not there for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, Final

from flask import Blueprint, Response

from aiki.api import access_schemas as schemas
from aiki.api import masking, paging
from aiki.api.access import ACTIONS, needs, principal
from aiki.api.guard import csrf_token
from aiki.api.openapi import describe
from aiki.api.problems import Refused, answer, invalid
from aiki.api.requests import body, query, store
from aiki.api.schemas import EmptySchema
from aiki.api.signin import guard_of
from aiki.client import wire
from aiki.clock import SECOND
from aiki.errors import FilterError, NotThere
from aiki.storage.auditing import AuditFilter, AuditView
from aiki.storage.keys import KeyView
from aiki.storage.people import UserView, user_name

blueprint = Blueprint("people", __name__)

_KEY: Final = schemas.KeySchema()
_USER: Final = schemas.UserSchema()
_CHANGE: Final = schemas.UserChangeSchema()
_AUDIT: Final = schemas.AuditQuery()
_NONE: Final = EmptySchema()


# ---------------------------------------------------------------- who asks
@blueprint.get("/me")
@needs("look")
@describe(query=_NONE, answer=schemas.Me)
def me() -> Response:
    """Who asks, what they may do, and which namespace the request is about."""
    query(_NONE)
    who = principal()
    return answer(
        {
            "name": who.name,
            "kind": who.kind,
            "role": who.role.value,
            "namespaces": _names(who.namespaces),
            "namespace": store().namespace,
            "known_namespaces": known_namespaces(),
            "actions": sorted(action for action in ACTIONS if who.may(action)),
            "csrf_token": csrf_token(),
        }
    )


def known_namespaces() -> list[str]:
    """The namespaces that the principal may see, and the request's own."""
    who = principal()
    named = who.namespaces if who.namespaces is not None else store().namespaces()
    return sorted({*named, store().namespace})


# ---------------------------------------------------------------- keys
@blueprint.get("/keys")
@needs("keys.manage")
@describe(query=_NONE, answer=schemas.Keys)
def keys() -> Response:
    """API keys, newest first, revoked ones too."""
    query(_NONE)
    return answer({"keys": [key_json(item) for item in visible_keys()]})


@blueprint.post("/keys")
@needs("keys.manage")
@describe(
    body=_KEY,
    answers={201: schemas.NewKey},
    errors=("conflict",),
    example={"name": "ci", "role": "operator", "namespaces": ["default"], "expires_in": 7776000},
    secret=True,
)
def add_key() -> Response:
    """Make an API key. The secret is told this once: only a hash of it is kept."""
    data = body(_KEY)
    if data.get("expires_at") is not None and data.get("expires_in") is not None:
        raise invalid("give expires_at or expires_in, not both", {"expires_in": ["give expires_at or expires_in, not both"]})
    expires = wire.time_from_json(data.get("expires_at"))
    if data.get("expires_in") is not None:
        expires = store().clock() + int(data["expires_in"] * SECOND)
    namespaces = granted(data.get("namespaces"))
    secret, key = store().add_key(data["name"], data["role"], namespaces, expires_at=expires, actor=principal().name)
    return answer({"key": key_json(key), "secret": secret}, 201)


@blueprint.post("/keys/<key_id>/revoke")
@needs("keys.manage")
@describe(body=_NONE, optional_body=True, answer=schemas.Key, errors=("not_found",))
def revoke_key(key_id: str) -> Response:
    """Have an API key open nothing any more, from within a second on; harmless to repeat."""
    body(_NONE, optional=True)
    return answer(key_json(revoke(key_id)))


def visible_keys() -> list[KeyView]:
    """The keys that whoever asks may manage."""
    who = principal()
    return [item for item in store().api_keys() if who.sees_all_of(item.namespaces)]


def revoke(key_id: str) -> KeyView:
    """Revoke a key that whoever asks may manage; raises `NotThere`."""
    found = store().key(key_id)
    if found is None or not principal().sees_all_of(found.namespaces):
        raise NotThere(f"there is no key {key_id[:16]}")
    revoked = store().revoke_key(key_id, actor=principal().name)
    guard_of().forget()
    return revoked


# ---------------------------------------------------------------- users
@blueprint.get("/users")
@needs("users.manage")
@describe(query=_NONE, answer=schemas.Users)
def users() -> Response:
    """Users, by name."""
    query(_NONE)
    return answer({"users": [user_json(item) for item in visible_users()]})


@blueprint.post("/users")
@needs("users.manage")
@describe(
    body=_USER,
    answers={201: schemas.User},
    errors=("conflict",),
    example={"name": "ann", "password": "correct horse battery staple", "role": "operator", "namespaces": ["default"]},
)
def add_user() -> Response:
    """Make a user, who may sign in to the dashboard."""
    data = body(_USER)
    namespaces = granted(data.get("namespaces"))
    user = store().add_user(data["name"], data["password"], data["role"], namespaces, actor=principal().name)
    return answer(user_json(user), 201)


@blueprint.patch("/users/<name>")
@needs("users.manage")
@describe(body=_CHANGE, answer=schemas.User, errors=("not_found", "conflict"), example={"role": "viewer"})
def change_user(name: str) -> Response:
    """Change a user's role, namespaces or password, or disable it. A new password and `disabled` end its sessions.

    The last admin of all namespaces stays one.
    """
    data = body(_CHANGE)
    changes: dict[str, Any] = {key: data[key] for key in ("role", "password", "disabled") if key in data}
    if "namespaces" in data:
        changes["namespaces"] = granted(data["namespaces"])
    return answer(user_json(change(name, **changes)))


@blueprint.delete("/users/<name>")
@needs("users.manage")
@describe(answers={204: None}, errors=("not_found", "conflict"))
def remove_user(name: str) -> Response:
    """Remove a user and end its sessions."""
    remove(name)
    return Response(status=204)


def visible_users() -> list[UserView]:
    """The users that whoever asks may manage."""
    who = principal()
    return [item for item in store().users() if who.sees_all_of(item.namespaces)]


def change(name: str, **changes: Any) -> UserView:
    """Change a user that whoever asks may manage; raises `NotThere` or `Conflict`."""
    changed = store().change_user(_manageable(name), **changes, actor=principal().name)
    guard_of().forget()
    return changed


def remove(name: str) -> None:
    """Remove a user that whoever asks may manage; raises `NotThere` or `Conflict`."""
    store().remove_user(_manageable(name), actor=principal().name)
    guard_of().forget()


def _manageable(name: str) -> str:
    found = store().user(name)
    if found is None or not principal().sees_all_of(found.namespaces):
        raise NotThere(f"there is no user {name[:64]}")
    return user_name(name)


def granted(namespaces: Iterable[str] | None) -> list[str] | None:
    """The namespaces that whoever asks gives to a user or a key, by default its own; raises `Refused` for more than those."""
    who = principal()
    wanted = who.namespaces if namespaces is None else frozenset(namespaces)
    if not who.sees_all_of(wanted):
        raise Refused(403, "forbidden", f"{who.name} can give only namespaces that it has itself")
    return None if wanted is None else sorted(wanted)


# ---------------------------------------------------------------- audit
@blueprint.get("/audit")
@needs("audit.look")
@describe(query=_AUDIT, answer=schemas.Audit)
def audit() -> Response:
    """What people and programs did in this namespace, newest first."""
    asked = query(_AUDIT)
    where = AuditFilter(*(asked.get(name) for name in ("actor", "action", "subject", "since", "until")))
    limit = asked.get("limit", 50)
    after = paging.place_of(repr(where), asked["after"]) if "after" in asked else None
    found = store().audit_log(where, limit=limit + 1, after=after)
    more = paging.token_of(repr(where), found[limit - 1].id) if len(found) > limit else None
    return answer({"audit": [audit_json(item) for item in found[:limit]], "next": more})


# ---------------------------------------------------------------- JSON
def key_json(key: KeyView) -> dict[str, Any]:
    """A key, as it is answered."""
    return {**_timed(asdict(key)), "namespaces": _names(key.namespaces)}


def user_json(user: UserView) -> dict[str, Any]:
    """A user, as it is answered."""
    return {**_timed(asdict(user)), "namespaces": _names(user.namespaces)}


def audit_json(record: AuditView) -> dict[str, Any]:
    """An audit record, as it is answered."""
    return _timed(asdict(visible_record(record)))


def visible_record(record: AuditView) -> AuditView:
    """An audit record as whoever asks may see it: the filter of a batch may ask for what is masked for them."""
    if masking.sees_all() or not record.action.startswith("batch_") or not record.detail.startswith("{"):
        return record
    try:
        target = json.loads(record.detail)
        if target.get("q") is None:
            return record
        return replace(record, detail=json.dumps({**target, "q": masking.visible_filter(target["q"])}))
    except (ValueError, FilterError):  # cut off where the column ends
        return replace(record, detail=masking.MASK)


def _timed(data: dict[str, Any]) -> dict[str, Any]:
    return {key: wire.time_to_json(value) if key.endswith("_at") else value for key, value in data.items()}


def _names(namespaces: Iterable[str] | None) -> list[str] | None:
    return None if namespaces is None else sorted(namespaces)
