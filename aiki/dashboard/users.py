"""The page of users, who may sign in to these pages: add, change, disable, remove."""

from __future__ import annotations

from typing import Any

from flask import Response, request, url_for

from aiki.api import people
from aiki.api.access import Role, needs, principal
from aiki.api.problems import Refused
from aiki.api.requests import store
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.keys import namespaces_of, problem_of, role_of
from aiki.dashboard.views import done, page
from aiki.errors import AikiError
from aiki.storage.passwords import MIN_LENGTH
from aiki.storage.people import UserView


@blueprint.get("/users")
@needs("users.manage")
def users() -> Response:
    """Users, by name."""
    return _page()


@blueprint.post("/users")
@needs("users.manage")
def add_user() -> Response:
    """Make a user."""
    form = request.form.to_dict()
    try:
        scope = people.granted(namespaces_of(form.get("namespaces", "")))
        name, password = form.get("name", "").strip(), form.get("password", "")
        store().add_user(name, password, role_of(form.get("role", "")), scope, actor=principal().name)
    except (AikiError, Refused) as error:
        return _page(problem_of(error), form)
    return done(url_for("dashboard.users"), "added")


def _page(problem: str = "", filled: dict[str, str] | None = None) -> Response:
    first = {"role": "admin", "namespaces": ""} if principal().kind == "local" else None
    return page(
        "users.html",
        users=people.visible_users(),
        roles=[role.value for role in Role],
        least=MIN_LENGTH,
        problem=problem,
        filled=filled or first or {"role": "viewer", "namespaces": store().namespace},
        status=400 if problem else 200,
    )


@blueprint.get("/users/<name>/change")
@needs("users.manage")
def ask_change_user(name: str) -> Response:
    """A user's role, namespaces, password, and whether it is disabled."""
    return _change_form(_there(name))


@blueprint.post("/users/<name>/change")
@needs("users.manage")
def change_user(name: str) -> Response:
    """Change what was changed in the form."""
    found, form = _there(name), request.form.to_dict()
    try:
        changes: dict[str, Any] = {}
        if (role := role_of(form.get("role", found.role))) != found.role:
            changes["role"] = role
        scope = namespaces_of(form.get("namespaces", ""))
        if (None if scope is None else frozenset(scope)) != found.namespaces:
            changes["namespaces"] = people.granted(scope)
        if form.get("password"):
            changes["password"] = form["password"]
        if ("disabled" in form) != found.disabled:
            changes["disabled"] = "disabled" in form
        if changes:
            people.change(found.name, **changes)
    except (AikiError, Refused) as error:
        return _change_form(found, problem_of(error))
    return done(url_for("dashboard.users"), "changed")


def _change_form(found: UserView, problem: str = "") -> Response:
    return page(
        "confirm.html",
        title=f"Change {found.name}",
        text="A new password, and disabling, end the user's sessions.",
        problem=problem,
        action=url_for("dashboard.change_user", name=found.name),
        button="Change",
        back=url_for("dashboard.users"),
        fields="fields_user.html",
        filled=found,
        roles=[role.value for role in Role],
        least=MIN_LENGTH,
        reason=False,
        active="dashboard.users",
        status=400 if problem else 200,
    )


@blueprint.get("/users/<name>/remove")
@needs("users.manage")
def ask_remove_user(name: str) -> Response:
    """Ask before a user is removed."""
    return _remove_form(_there(name))


@blueprint.post("/users/<name>/remove")
@needs("users.manage")
def remove_user(name: str) -> Response:
    """Remove a user and end its sessions."""
    found = _there(name)
    try:
        people.remove(found.name)
    except AikiError as error:
        return _remove_form(found, str(error))
    return done(url_for("dashboard.users"), "removed")


def _remove_form(found: UserView, problem: str = "") -> Response:
    return page(
        "confirm.html",
        title=f"Remove {found.name}",
        text="Its sessions end. What it did stays in the audit.",
        problem=problem,
        action=url_for("dashboard.remove_user", name=found.name),
        button="Remove",
        back=url_for("dashboard.users"),
        danger=True,
        typed=found.name,
        reason=False,
        active="dashboard.users",
        status=400 if problem else 200,
    )


def _there(name: str) -> UserView:
    found = next((user for user in people.visible_users() if user.name == name.lower()), None)
    if found is None:
        raise Refused(404, "not_found", "There is no such user here.")
    return found
