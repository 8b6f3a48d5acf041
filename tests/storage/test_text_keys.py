"""Text that users choose and that databases compare: what differs is told apart, or refused, on every database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aiki import Aiki
from aiki.errors import ConfigurationError, ReferenceConflict
from aiki.model import DefinitionInfo
from aiki.options import check_reference, check_step_name, check_task_name
from aiki.storage import Store
from tests.storage.test_creating import new

APART = ["job", "Job", "jöb", "jo\u0308b", "job job", "\u00e4" * 255, "\U0001f600" * 255, "\U0001f600", "ß", "ss", "ſ", "s"]
"""Case, accents, compositions, lengths in characters and bytes, what collations take for the same."""
REFUSED = ["job ", " job", " ", "", "job\n", "job\x00", "job\t", "\ud800", "job\u00a0", "job\u2003", "x" * 256]
"""Spaces at the ends, which MySQL does not compare; what cannot be shown, or not be stored."""


def test_reference_ids_that_differ_are_different_runs(emptied_store: Store) -> None:
    made = [emptied_store.create_runs([replace(new(), reference_id=text)]).accepted[0] for text in APART]
    assert all(item.created for item in made)
    again = [emptied_store.create_runs([replace(new(), reference_id=text)]).accepted[0] for text in APART]
    assert [item.id for item in again] == [item.id for item in made]


def test_names_and_versions_that_differ_are_different_definitions(emptied_store: Store) -> None:
    names = [text[:200] for text in APART]
    emptied_store.register_definitions([DefinitionInfo(name, "1", "task", {}) for name in names])
    assert {item.name for item in emptied_store.definitions()} == set(names)


def test_reference_ids_that_a_database_cannot_tell_apart_are_never_one_run(emptied_store: Store) -> None:
    """What comes past the checks, from a program of another kind, is told apart or refused as well."""
    first = emptied_store.create_runs([replace(new(), reference_id="job")]).accepted[0]
    try:
        second = emptied_store.create_runs([replace(new(), reference_id="job ")]).accepted[0]
    except ReferenceConflict:
        return
    assert second.id != first.id


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text: str) -> None:
    for check in (lambda: check_reference("shop", text), lambda: check_step_name(text), lambda: check_task_name("shop", text)):
        with pytest.raises(ConfigurationError, match="printable characters, without spaces around them"):
            check()
    with pytest.raises(ConfigurationError, match="version="):
        Aiki("shop").task(version=text)(print)


def test_the_reference_ids_of_many_are_checked(tmp_path: object) -> None:
    app = Aiki("shop")

    @app.task
    def charge(order: int) -> None: ...

    with pytest.raises(ConfigurationError, match="reference_id='job '") as told:
        charge.enqueue_many([charge.call(1), replace(charge.call(2), reference_id="job ")])
    assert "this is item 1; nothing was enqueued" in "".join(told.value.__notes__)
