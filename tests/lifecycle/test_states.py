"""The picture of a run's states is the table that is held."""

from __future__ import annotations

import re
from pathlib import Path

from aiki.states import ACTIVE, OPERATOR_TRANSITIONS, TRANSITIONS, State

PICTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


def drawn() -> list[tuple[State, State, str]]:
    """The arrows of the picture, those of a box as arrows of all states in it: from, to, what is written at it."""
    text = PICTURE.read_text().split("stateDiagram-v2\n")[1].split("```")[0]
    boxes: dict[str, set[str]] = {}
    open_boxes: list[str] = []
    arrows: list[tuple[str, str, str]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if box := re.fullmatch(r"state (\w+) \{", line):
            open_boxes.append(box[1])
        elif line == "}":
            open_boxes.pop()
        else:
            arrow = re.fullmatch(r"(\w+|\[\*\]) --> (\w+): (.+)", line)
            assert arrow is not None, f"not an arrow: {line}"
            arrows.append((arrow[1], arrow[2], arrow[3]))
            for name in open_boxes:
                boxes.setdefault(name, set()).update((arrow[1], arrow[2]))
    assert boxes["active"] == {state.value for state in ACTIVE}
    return [
        (State(one), State(after), why)
        for before, after, why in arrows
        if before != "[*]"
        for one in sorted(boxes.get(before, {before}))
    ]


def test_the_picture_shows_the_moves_that_may_be() -> None:
    arrows = [(before, after) for before, after, why in drawn() if why != "retried"]
    assert len(arrows) == len(set(arrows)), "an arrow is drawn twice"
    assert set(arrows) == {(before, after) for before, all_after in TRANSITIONS.items() for after in all_after}


def test_the_picture_shows_the_moves_that_operators_may_make() -> None:
    arrows = [(before, after) for before, after, why in drawn() if why == "retried"]
    assert sorted(arrows) == sorted((before, after) for before, all_ in OPERATOR_TRANSITIONS.items() for after in all_)
