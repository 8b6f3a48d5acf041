"""Publishing dead letters again, to where they came from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from aiki.broker import reports, work
from aiki.broker.base import Address, Session
from aiki.errors import BrokerUnavailable, ConfigurationError, MessageError, RunConflict
from aiki.messages import DispatchList
from aiki.owning import owned_broker
from aiki.settings import Settings, check_name
from aiki.storage import Store
from aiki.storage.dead import DeadLetter

CONFIRM: Final = 5.0
"""Seconds that the broker has to confirm all of them."""


def address_of(letter: DeadLetter, namespace: str) -> Address:
    """Where a letter was. Raises `RunConflict` if that is no queue to which it could be sent again."""
    kind, _, key = letter.source.partition("/")
    if kind == "work":
        where, _, queue = key.partition("/")
        if where == namespace and queue:
            try:
                return work(namespace, check_name("queue", queue))
            except ConfigurationError:
                pass
    if kind == "reports" and key.isdecimal() and len(key) <= 2:
        return reports(int(key))
    raise RunConflict(f"letter {letter.id} came from {letter.source or 'nowhere that is known'}: it cannot be sent there again")


def body_of(letter: DeadLetter) -> bytes:
    """What is sent: a dispatch says that an earlier copy may be out, so that nobody executes it without having asked."""
    if not letter.source.startswith("work/"):
        return letter.body
    try:
        return replace(DispatchList.decode(letter.body), again=True).encode()
    except MessageError:
        return letter.body  # perhaps a worker of another release can read it


def requeue(settings: Settings, store: Store, letters: Sequence[DeadLetter], namespace: str) -> None:
    """Publish letters, and wait until the broker answers for all. Raises `BrokerUnavailable`: some may have been sent."""
    addressed = [(address_of(letter, namespace), body_of(letter)) for letter in letters]
    session = owned_broker(settings, store)[0].connect("aiki api letters", settings.timeout)
    try:
        _confirmed(session, {session.send(to, body) for to, body in addressed})
    finally:
        session.close()


def _confirmed(session: Session, open_: set[int]) -> None:
    until = time.monotonic() + CONFIRM
    while open_:
        session.receive(0.05)
        for seq, ok in session.settled():
            if not ok:
                raise BrokerUnavailable("the broker refused a letter; its queue may be gone")
            open_.discard(seq)
        if open_ and time.monotonic() > until:
            raise BrokerUnavailable(f"the broker has not confirmed {len(open_)} letters within {CONFIRM:g} s")
