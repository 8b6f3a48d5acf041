"""Schemas of keys, users and the audit: requests and answers."""

from __future__ import annotations

from typing import Any, Final

from marshmallow import fields, validate

from aiki.api.access import ACTIONS, Role
from aiki.api.answers import Answer, a_time, an_id
from aiki.api.field_checks import (
    Checked,
    Strict,
    boolean,
    from_text,
    moment,
    number,
    one_of,
    query_time,
    seconds,
    shaped,
    text,
)
from aiki.api.schemas import MAX_PAGE
from aiki.settings import check_name
from aiki.storage.passwords import MAX_LENGTH, MIN_LENGTH

_ROLES: Final = tuple(role.value for role in Role)


def _namespaces(value: Any) -> list[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= 100 or not all(isinstance(item, str) for item in value):
        raise ValueError("it must be a list of 1 to 100 names of namespaces, or null for all")
    return [check_name("namespace", item) for item in value]


def _password(value: Any) -> str:
    # What is wrong with it is said without repeating it.
    if not isinstance(value, str) or not MIN_LENGTH <= len(value) <= MAX_LENGTH:
        raise ValueError(f"it must be text of {MIN_LENGTH} to {MAX_LENGTH} characters")
    return value


_NAME: Final = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._-]+$"}
shaped(_namespaces, type="array", items=_NAME, minItems=1, maxItems=100)
shaped(_password, type="string", minLength=MIN_LENGTH, maxLength=MAX_LENGTH, format="password")


# ---------------------------------------------------------------- bodies and queries
class KeySchema(Strict):
    """A new API key. `namespaces`: those that it may see, null for all that whoever makes it may see."""

    name = Checked(text(100), required=True)
    role = Checked(one_of(*_ROLES), required=True)
    namespaces = Checked(_namespaces, allow_none=True)
    expires_at = Checked(moment, allow_none=True)
    expires_in = Checked(seconds, allow_none=True)


class UserSchema(Strict):
    """A new user. `namespaces` as for keys."""

    name = Checked(text(64), required=True)
    password = Checked(_password, required=True)
    role = Checked(one_of(*_ROLES), required=True)
    namespaces = Checked(_namespaces, allow_none=True)


class UserChangeSchema(Strict):
    """What is to be changed of a user."""

    role = Checked(one_of(*_ROLES))
    namespaces = Checked(_namespaces, allow_none=True)
    password = Checked(_password)
    disabled = Checked(boolean)


class AuditQuery(Strict):
    """Which audit records; `subject` is what something was done to: a run's id, a queue, a user."""

    actor = Checked(text(255))
    action = Checked(text(32))
    subject = Checked(text(255))
    since = Checked(query_time)
    until = Checked(query_time)
    limit = Checked(from_text(number(1, MAX_PAGE, whole=True), int))
    after = Checked(text(64))


# ---------------------------------------------------------------- answers
def _role() -> fields.String:
    return fields.String(validate=validate.OneOf(_ROLES))


def _names(**options: Any) -> fields.List[Any]:
    return fields.List(fields.String(), allow_none=True, **options)


class Key(Answer):
    """An API key, without its secret. `namespaces`: null for all."""

    id = fields.String()
    name = fields.String()
    role = _role()
    namespaces = _names()
    created_at = a_time()
    created_by = fields.String()
    expires_at = a_time(allow_none=True)
    used_at = a_time(allow_none=True)
    revoked_at = a_time(allow_none=True)


class Keys(Answer):
    """API keys, newest first."""

    keys = fields.List(fields.Nested(Key))


class NewKey(Answer):
    """A new API key. `secret` is what programs send; it is told this once."""

    key = fields.Nested(Key)
    secret = fields.String()


class User(Answer):
    """A user. `namespaces`: null for all."""

    name = fields.String()
    role = _role()
    namespaces = _names()
    disabled = fields.Boolean()
    created_at = a_time()
    created_by = fields.String()
    signed_in_at = a_time(allow_none=True)


class Users(Answer):
    """Users, by name."""

    users = fields.List(fields.Nested(User))


class Me(Answer):
    """Who asks, and what they may do. `namespaces`: null for all; `known_namespaces`: those of them that there are."""

    name = fields.String()
    kind = fields.String(validate=validate.OneOf(["user", "key", "local"]))
    role = _role()
    namespaces = _names()
    namespace = fields.String()
    known_namespaces = fields.List(fields.String())
    actions = fields.List(fields.String(validate=validate.OneOf(sorted(ACTIONS))))
    csrf_token = fields.String(metadata={"description": "What changes must send as X-CSRF-Token, if a cookie says who asks."})


class AuditRecord(Answer):
    """Something that was done, or refused: by whom, to what, to how many, why, what became of it, by which request."""

    id = an_id()
    created_at = a_time()
    actor = fields.String()
    action = fields.String()
    subject = fields.String()
    detail = fields.String()
    reason = fields.String()
    affected = fields.Integer()
    outcome = fields.String(validate=validate.OneOf(["done", "refused", "failed"]))
    request_id = fields.String()
    source = fields.String()


class Audit(Answer):
    """A page of audit records, newest first; `next` is null on the last."""

    audit = fields.List(fields.Nested(AuditRecord))
    next = fields.String(allow_none=True)
