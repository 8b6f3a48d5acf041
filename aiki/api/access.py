"""Who asks, and what they may do: one table of actions, one decorator that every endpoint and every page carries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import Any, Final, Literal, ParamSpec, TypeVar

from flask import g

from aiki.api.problems import Refused

P = ParamSpec("P")
R = TypeVar("R")


class Role(StrEnum):
    """The roles, from least to most: each may do everything that those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


RANK: Final = {role: rank for rank, role in enumerate(Role)}

ACTIONS: Final[Mapping[str, Role]] = {
    "look": Role.VIEWER,  # everything that changes nothing and shows no secret
    "runs.enqueue": Role.OPERATOR,
    "runs.operate": Role.OPERATOR,  # cancel, terminate, pause, resume, wake, retry, rerun, send events; one run or many
    "queues.operate": Role.OPERATOR,  # pause and resume a queue
    "queues.purge": Role.ADMIN,
    "workers.operate": Role.OPERATOR,  # drain and stop
    "dead.operate": Role.OPERATOR,  # requeue and discard dead letters
    "definitions.register": Role.OPERATOR,
    "payloads.unmasked": Role.ADMIN,  # see values that are masked for others
    "webhooks.manage": Role.ADMIN,
    "audit.look": Role.OPERATOR,
    "keys.manage": Role.ADMIN,
    "users.manage": Role.ADMIN,
    "settings.look": Role.ADMIN,
}
"""The least role for each action."""


OPEN: Final = frozenset({"health.healthz", "health.readyz", "signin.page", "signin.sign_in", "assets.static"})
"""Endpoints for everybody: whether the server is there, signing in, and files that are the same for all."""
NAMESPACE_HEADER: Final = "X-Aiki-Namespace"
NAMESPACE_QUERY: Final = "namespace"
NAMESPACE_COOKIE: Final = "aiki_namespace"
"""A namespace chosen in the dashboard."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    :ivar name: as audit records have it: `ann`, `key:ci (q5ir8w2mzkpt)`, `key:AIKI_API_KEY`, `local`.
    :ivar kind: `local` is whoever can connect to a server that listens on loopback and has no key; it may do everything.
    :ivar namespaces: those that it may see; None is all.
    """

    name: str
    role: Role
    kind: Literal["user", "key", "local"]
    namespaces: frozenset[str] | None = None

    def may(self, action: str) -> bool:
        """Whether the role allows an action."""
        return RANK[self.role] >= RANK[ACTIONS[action]]

    def sees(self, namespace: str) -> bool:
        """Whether a namespace is one of its."""
        return self.namespaces is None or namespace in self.namespaces

    def sees_all_of(self, namespaces: Collection[str] | None) -> bool:
        """Whether it sees all of these namespaces (None: all there are), and so may manage a principal that has them."""
        return self.namespaces is None or (namespaces is not None and self.namespaces.issuperset(namespaces))


LOCAL: Final = Principal("local", Role.ADMIN, "local")
ENVIRONMENT: Final = Principal("key:AIKI_API_KEY", Role.ADMIN, "key")
"""The principal of requests with the key from the server's environment."""


def principal() -> Principal:
    """The principal of this request, set by the guard before any endpoint runs. Raises `Refused` (401) if there is none."""
    found = g.get("principal")
    if not isinstance(found, Principal):
        raise Refused(401, "unauthorized", "sign in, or send an API key: Authorization: Bearer <key>")
    return found


def check(action: str) -> None:
    """Raise `Refused` (403) unless the principal may do `action`."""
    who = principal()
    if not who.may(action):
        g.refused = action
        raise Refused(403, "forbidden", f"{who.name} is {who.role}; this needs the role {ACTIONS[action]}")


def needs(action: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have an endpoint or a page called only for those who may do `action`; `needs.action` can be read from the view."""
    assert action in ACTIONS, action

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            check(action)
            return view(*args, **kwargs)

        marked: Any = checked
        marked.action = action
        return checked

    return decorate
