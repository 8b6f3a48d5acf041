"""Values of a history that its dispatch leaves out, from the orchestrator to the child that asked for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aiki import fields as f
from aiki.errors import MessageError
from aiki.history import ValueKey
from aiki.history_checks import MAX_STEPS, is_value_key
from aiki.messages.envelope import VALUES, VERSION, encode, opened

CAN_FETCH: Final = "fetch"
"""In a hello's `can`: this worker's children fetch values (`FETCH`) that a history leaves out."""
CAN_READ_FAILURES: Final = "failures"
"""In a hello's `can`: this worker's children read what is told of a failed run's error (`aiki.failure`)."""
KIND_OUTSIDE: Final = "workflow+"
"""`OPT_KIND` of a workflow whose history leaves values out: earlier releases, which cannot fetch, do not know this kind."""


@dataclass(slots=True)
class Values:
    """The answer to a `FETCH`: texts by key, as many as fit into it, at least one. None: there is no such value."""

    namespace: str
    run_id: str
    number: int
    texts: dict[ValueKey, str | None]

    def encode(self) -> bytes:
        """The message's bytes."""
        content = [self.run_id, self.number, [[*key, text] for key, text in self.texts.items()]]
        return encode([VERSION, VALUES, {"ns": self.namespace}, content]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> Values:
        """Read a message; raises `MessageError`."""
        header, content = opened(body, VALUES, _VALUES_HEADER)
        run_id, number, items = content if type(content) is list and len(content) == 3 else ("", -1, [])
        if not (f.hex_id(run_id) and f.large(number) and _are_values(items)):
            raise MessageError(f"values that cannot be read: {f.shown(content)}")
        return cls(header["ns"], run_id, number, {ValueKey(*key): text for *key, text in items})


def _is_value(item: Any) -> bool:
    return type(item) is list and len(item) == 4 and is_value_key(item[:3]) and (item[3] is None or type(item[3]) is str)


_are_values: Final = f.list_of(_is_value, MAX_STEPS)
_VALUES_HEADER: Final = f.Fields({"ns": f.place}, ("ns",))
