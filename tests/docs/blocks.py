"""The code blocks of a page of documentation, and how each is tested. The words after the language in a fence say it:

* ```` ```python app=NAME ````: part of the module `NAME.py`, which a worker runs; further ones are added to it.
* ```` ```python app=NAME replace ````: the module is this alone from here on, and a new worker has taken over.
* ```` ```python run ````: typed into a Python session that goes on over the whole page; must not raise.
* ```` ```python run until ````: the same, repeated until it prints what is shown below it.
* ```` ```python file=PATH ````: lines of that file, which other tests run.
* ```` ```python shown ````: cannot be run here; its syntax is checked.
* ```` ```sh run ````: commands of ours that are run; `$NAME` is a name of the session.
* ```` ```sh start ````: a command of a project in `examples/`, whose README's commands are run.
* ```` ```sh ````: the set-up of production; commands of ours in it are checked against their options.
* ```` ```text ```` below one that is run: what it prints; `…` stands for anything.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^([ \t]*)```([^\n`]*)\n(.*?)^\1```[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclass
class Block:
    """A block: the language and the words of its fence, the line where it stands, and what is shown that it prints."""

    where: str
    language: str
    words: list[str]
    code: str
    prints: str | None = None
    app: str = field(init=False, default="")
    file: str = field(init=False, default="")

    def __post_init__(self) -> None:
        for word in self.words:
            if word.startswith("app="):
                self.app = word.removeprefix("app=")
            elif word.startswith("file="):
                self.file = word.removeprefix("file=")

    def __contains__(self, word: str) -> bool:
        return word in self.words


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in order; `text` below one that is run belongs to it."""
    text = page.read_text()
    found: list[Block] = []
    for match in FENCE.finditer(text):
        language, *words = match[2].split() or [""]
        where = f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}"
        code = textwrap.dedent(match[3])
        if language == "text" and found and "run" in found[-1] and found[-1].prints is None:
            found[-1].prints = code
        else:
            found.append(Block(where, language, words, code))
    return found


def agrees(shown: str, printed: str) -> bool:
    """Whether what was printed is what the page shows. Lines may be wrapped otherwise on the page."""
    parts = [r"\s+".join(re.escape(word) for word in part.split()) for part in shown.strip().split("…")]
    return re.fullmatch(r"\s*" + r"\s*.*?\s*".join(parts) + r"\s*", printed, re.DOTALL) is not None
