"""Control messages, from the orchestrator and the server to supervisors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from aiki import fields as f
from aiki.errors import MessageError
from aiki.messages.envelope import CONTROL, VERSION, RunKey, are_keys, are_places, encode, opened, three

ASK: Final = "ask"
"""Promise never to begin these (run, epoch), then say which of them you hold. Fields: `nonce`, `runs`."""
REVOKE: Final = "revoke"
"""Never begin these; interrupt none. Fields: `runs`."""
CANCEL: Final = "cancel"
"""Never begin these, and interrupt those that run. Fields: `runs`."""
CANCEL_SOON: Final = "cancel_soon"
"""Workflows that are to be cancelled: raised at their next durable point. Fields: `runs`."""
PAUSE_SOON: Final = "pause_soon"
"""Workflows that are to be given back at their next durable point. Fields: `runs`."""
ABORT: Final = "abort"
"""Whoever executes these is stale: stop it, its reports change nothing. Fields: `runs`."""
SNAPSHOT: Final = "snapshot"
"""The answer to a worker's hello: all revocations whose dispatch may be out. Fields: `worker`, the hello's `nonce`, `runs`;
`now`: the server's time (microseconds); `more`: 1 if more such messages follow; `paused` and `number` as `QUEUES` has them;
`hears`: 1 if a beat that asks is answered by `HEARD`."""
RESEND_HELLO: Final = "hello?"
"""Workers the sender does not know should say hello. Fields: none."""
KEYS: Final = "keys"
"""A worker's namespace has another key than it named in its hello, or it named none. Fields: `worker`; `sealed`: the keys,
sealed to the hello's `pk` (see `aiki.sealing`); `proof`: made with the key that the worker named, empty if it is not known."""
DRAIN: Final = "drain"
"""Finish what runs, give back the rest and stop. Fields: `worker`; `at_once`: 1 to kill what runs and give that back too."""
QUEUES: Final = "queues"
"""Which queues are paused: take nothing from these, begin nothing that was taken from them. Fields: `paused`: all names of the
namespace; `number`: rises with each change, what has a lower one is passed over. A `SNAPSHOT` carries both, too."""
HEARD: Final = "heard"
"""The beats of these workers were heard, and asked for an answer. Fields: `workers`, each as `called` has it."""


def called(worker: str) -> str:
    """A worker's id, short: its random end."""
    return worker[-12:]


@dataclass(slots=True)
class Control:
    """One message of the control fanout; `fields` as each kind says. `runs` travels as `[[run_id, epoch], …]`."""

    namespace: str
    kind: str
    runs: list[RunKey] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The message's bytes."""
        return encode([VERSION, CONTROL, {"ns": self.namespace}, [self.kind, self.runs, self.fields]]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> Control:
        """Read a message; raises `MessageError`."""
        header, content = opened(body, CONTROL, _CONTROL_HEADER)
        kind, runs, fields = three(content, "a control message")
        if not are_keys(runs):
            raise MessageError(f"a control message of kind {kind!r} that cannot be read: its runs are {f.shown(runs)}")
        wrong = _CONTROL_FIELDS.wrong(fields)
        if wrong is not None:
            raise MessageError(f"a control message of kind {kind!r} that cannot be read: {wrong}")
        return cls(header["ns"], kind, [RunKey._make(run) for run in runs], fields)


_CONTROL_HEADER: Final = f.Fields({"ns": f.place}, ("ns",))
_CONTROL_FIELDS: Final = f.Fields(
    {
        "nonce": f.large,
        "worker": f.hex_id,
        "now": f.moment,
        "more": f.flag,
        "at_once": f.flag,
        "sealed": f.ascii_text(4096),
        "proof": f.ascii_text(64),
        "paused": are_places,
        "number": f.large,
        "hears": f.flag,
        "workers": f.list_of(f.ascii_text(32), 10_000),
    }
)
"""What the fields of control messages hold, whatever their kind."""
