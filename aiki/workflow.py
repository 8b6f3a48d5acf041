"""A workflow: a plain function made durable. Its first parameter is the run (`WorkflowRun`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, cast

from aiki.context import workflow_here
from aiki.errors import NotDurable
from aiki.task import Task
from aiki.workflow_run import WorkflowRun

P = ParamSpec("P")
R = TypeVar("R")


class Workflow(Task[P, R]):
    """A workflow, made by `@app.workflow`. `enqueue` starts a run; inside another workflow, calling it starts a child run
    and waits for it, and `submit` starts one and does not wait.

    :ivar fn: the plain function, which takes the run first.
    """

    kind = "workflow"
    _own_parameters = 1

    if TYPE_CHECKING:
        fn: Callable[Concatenate[WorkflowRun, P], R]  # type: ignore[assignment]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Inside a workflow: start a child run, wait for it, and return its result."""
        run = workflow_here()
        if run is None:
            raise NotDurable(
                f"workflow {self.name} was called outside of a workflow; use {self.name.rpartition('.')[2]}.enqueue(...), or "
                "in tests its plain function: .fn(run, ...)"
            )
        return cast(R, run.call_task(self, args, kwargs))

    def __repr__(self) -> str:
        return f"<Workflow {self.name}@{self.version}>"
