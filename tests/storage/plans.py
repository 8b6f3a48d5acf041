"""What the database plans for the statements that verbs send: none may read a table whole, or sort more than a page of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event

from aiki.storage import Store

BOUNDED = frozenset(
    f"aiki_{name}"
    for name in (
        *("statistics", "definitions", "workers", "orchestrators", "queues", "webhooks", "batches", "users", "api_keys"),
    )
)
"""Tables that do not grow with the runs."""


@dataclass
class Plans:
    """The statements that were sent, each once."""

    store: Store
    statements: dict[str, Any] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """What is wrong with the plans, in words."""
        return [f"{fault}\n  {step}\n  {sql[:400]}" for sql, step in self._steps() for fault in _faults(step)]

    def keys_of(self, table: str) -> set[str]:
        """The indexes that a table is read by."""
        return {str(step["key"]) for _, step in self._steps() if step.get("table") == table}

    def _steps(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with self.store.db.engine.connect() as connection:
            for sql, parameters in self.statements.items():
                # MySQL 9 answers with a tree of text unless told otherwise.
                found = connection.exec_driver_sql(f"EXPLAIN FORMAT=TRADITIONAL {sql}", parameters)
                names = list(found.keys())
                for row in found.fetchall():
                    yield sql, dict(zip(names, row, strict=True))


def _faults(step: dict[str, Any]) -> Iterator[str]:
    table = str(step.get("table") or "")
    extra = str(step.get("Extra") or "")
    # Derived tables hold what their own SELECT was limited to.
    if not table or table.startswith("<") or table in BOUNDED or "Impossible" in extra or "no matching row" in extra:
        return
    # An empty table counts as one row: there, reading it whole is the best plan.
    if step["type"] in ("ALL", "index") and int(step.get("rows") or 0) > 1:
        yield f"{table} is read whole"
    if "filesort" in extra and int(step.get("rows") or 0) > 1000:
        yield f"{table} is sorted"


@contextmanager
def planned(store: Store) -> Iterator[Plans]:
    """The SELECTs that are sent meanwhile."""
    plans = Plans(store)

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        text = re.sub(r"^SET STATEMENT \S+ FOR ", "", statement)
        shape = re.sub(r"(%s(, )?)+", "%s", text)
        if text.startswith("SELECT") and shape not in seen:
            seen.add(shape)
            plans.statements[text] = parameters

    seen: set[str] = set()
    event.listen(store.db._reading, "before_cursor_execute", note)
    try:
        yield plans
    finally:
        event.remove(store.db._reading, "before_cursor_execute", note)
