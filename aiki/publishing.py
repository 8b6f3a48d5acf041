"""From deliveries to messages: what may travel together is put into one dispatch list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aiki.broker import Address, work
from aiki.ceilings import DISPATCH_BYTES, DISPATCH_RUNS
from aiki.messages import DispatchList
from aiki.model import Outgoing

_OVERHEAD = 160
"""Roughly what a dispatch takes on the wire beside its input, its name and its options."""


class Packed(NamedTuple):
    """One message: where it goes, its bytes, and the deliveries (of `namespace`) that it carries."""

    to: Address
    body: bytes
    delivery_ids: list[bytes]
    namespace: str


def pack(outgoing: Iterable[Outgoing], *, max_runs: int = DISPATCH_RUNS, max_bytes: int = DISPATCH_BYTES) -> Iterator[Packed]:
    """Messages for these deliveries, in their order.

    Runs share a message if they have the same namespace, queue, group and `again`, as far as `max_runs` and about `max_bytes`
    allow; a run that is larger than that travels alone.
    """
    lists: dict[tuple[str, str, int, bool], list[Outgoing]] = {}
    sizes: dict[tuple[str, str, int, bool], int] = {}
    for item in outgoing:
        key = (item.namespace, item.queue, item.group, item.again)
        dispatch = item.dispatch
        weight = _OVERHEAD + len(dispatch.input) + len(dispatch.name)
        together = lists.get(key)
        if together is not None and (len(together) >= max_runs or sizes[key] + weight > max_bytes):
            yield _message(lists.pop(key))
            together = None
        if together is None:
            lists[key], sizes[key] = [item], weight
        else:
            together.append(item)
            sizes[key] += weight
    for together in lists.values():
        yield _message(together)


def _message(together: list[Outgoing]) -> Packed:
    first = together[0]
    body = DispatchList(first.namespace, first.queue, [item.dispatch for item in together], first.again).encode()
    return Packed(work(first.namespace, first.queue), body, [item.delivery_id for item in together], first.namespace)
