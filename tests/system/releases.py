"""Releases of one workflow, as they follow each other in a deploy."""

from __future__ import annotations

import shop

from aiki import Aiki, WorkflowRun

one, two, both, changed = Aiki("one"), Aiki("two"), Aiki("both"), Aiki("changed")
app = Aiki("releases")


def note(text: str) -> str:
    shop.mark("start", text.partition(" ")[2].replace(" ", "_") or text)
    return text


def first(run: WorkflowRun, order: str) -> str:
    run.step("note", note, order)
    return f"one {run.wait_event('paid')}"


def second(run: WorkflowRun, order: str) -> str:
    return f"two {run.wait_event('paid')}"


def altered(run: WorkflowRun, order: str) -> str:
    run.step("note", note, f"{order} with care")
    return f"altered {run.wait_event('paid')}"


NAME = "releases.checkout"
for target in (one, both, app):
    target.workflow(name=NAME, version="1")(first)
for target in (two, both, app):
    target.workflow(name=NAME, version="2")(second)
changed.workflow(name=NAME, version="1")(altered)
