"""What there is to see: the entries of the navigation, and the keys that lead to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flask import current_app

from aiki.api.access import Principal


@dataclass(frozen=True, slots=True)
class Entry:
    """A page of the navigation.

    :ivar endpoint: of the blueprint; an entry whose endpoint does not exist is not shown.
    :ivar key: `g` and this key lead there.
    :ivar action: what one must be allowed to do to see it.
    """

    endpoint: str
    title: str
    key: str
    action: str = "look"


ENTRIES: Final = (
    Entry("dashboard.overview", "Overview", "o"),
    Entry("dashboard.runs", "Runs", "r"),
    Entry("dashboard.queues", "Queues", "q"),
    Entry("dashboard.workers", "Workers", "w"),
    Entry("dashboard.schedules", "Schedules", "c"),
    Entry("dashboard.dead_letters", "Dead letters", "d"),
    Entry("dashboard.definitions", "Definitions", "f"),
    Entry("dashboard.batches", "Batches", "b"),
    Entry("dashboard.audit", "Audit", "a", "audit.look"),
    Entry("dashboard.keys", "Keys", "k", "keys.manage"),
    Entry("dashboard.users", "Users", "u", "users.manage"),
    Entry("dashboard.webhooks", "Webhooks", "h", "webhooks.manage"),
    Entry("dashboard.settings", "Settings", "s", "settings.look"),
)


def entries(who: Principal | None) -> list[Entry]:
    """Those that there are and that somebody may see."""
    known = current_app.view_functions
    return [item for item in ENTRIES if item.endpoint in known and who is not None and who.may(item.action)]
