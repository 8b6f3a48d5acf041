"""A saga: what was done is undone, in reverse and durably, when the rest fails."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self

from aiki.replay import Stop

if TYPE_CHECKING:
    from aiki.workflow_run import WorkflowRun

P = ParamSpec("P")


class Saga:
    """See `WorkflowRun.saga`::

    with run.saga() as saga:
        reserve(order)
        saga.compensate(release, order)
        charge(order)  # fails: release(order) is run, then the error goes on
    """

    def __init__(self, run: WorkflowRun) -> None:
        self._run = run
        self._undo: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def compensate(self, task: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run this task (or plain function) as a durable step if the block is left by an error or a cancel."""
        self._undo.append((task, args, kwargs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, Stop) or self._run.aborted:
            return
        while self._undo:
            task, args, kwargs = self._undo.pop()
            try:
                self._run.undo(task, args, kwargs)
            except Exception as failure:  # noqa: BLE001  the others are to be undone all the same
                error.add_note(f"compensation {getattr(task, 'name', task)} failed: {failure}")
