"""Aiki: tasks and durable workflows for Python teams that run RabbitMQ and MySQL.

The names below are imported when they are first asked for: a command such as `aiki alive`, which a platform runs every few
seconds, must not load all of this.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aiki.app import Aiki
    from aiki.arguments import Call
    from aiki.context import CurrentRun, NoCurrentRun, current_run, current_run_or_none
    from aiki.errors import (
        AikiError,
        BrokerUnavailable,
        ConfigurationError,
        DecodeError,
        EncodeError,
        EventTimeout,
        HistoryLimitExceeded,
        NotDurable,
        PayloadError,
        PayloadTooLarge,
        ReferenceConflict,
        ResultTimeout,
        RetryLater,
        RunCancelled,
        RunConflict,
        RunEnded,
        RunFailed,
        RunNotFound,
        ServerError,
        SoftTimeLimitExceeded,
        StepFailed,
        StepTimedOut,
        StorageUnavailable,
        TaskCancelled,
        TimeLimitExceeded,
        Unauthorized,
        Unavailable,
        UnknownTask,
        WorkflowCancelled,
        WorkflowChanged,
        WorkflowStuck,
    )
    from aiki.futures import Future, as_completed, first, gather
    from aiki.handle import Handle
    from aiki.model import RunDetail, RunView
    from aiki.retry import RetryPolicy
    from aiki.settings import Settings
    from aiki.states import State
    from aiki.task import AsyncTask, BoundTask, Task
    from aiki.workflow import Workflow
    from aiki.workflow_run import WorkflowRun

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022  (by noun, in the order in which one meets them)
    # the app and its tasks
    "Aiki",
    "Task",
    "AsyncTask",
    "BoundTask",
    "Call",
    "RetryPolicy",
    "Settings",
    # workflows
    "Workflow",
    "WorkflowRun",
    "Future",
    "gather",
    "first",
    "as_completed",
    # runs
    "Handle",
    "State",
    "RunView",
    "RunDetail",
    # inside a task
    "current_run",
    "current_run_or_none",
    "CurrentRun",
    "RetryLater",
    "TaskCancelled",
    "SoftTimeLimitExceeded",
    # inside a workflow
    "StepFailed",
    "StepTimedOut",
    "EventTimeout",
    "WorkflowCancelled",
    # errors: all are AikiError
    "AikiError",
    "ConfigurationError",
    "PayloadError",
    "EncodeError",
    "DecodeError",
    "PayloadTooLarge",
    "UnknownTask",
    "ReferenceConflict",
    "RunConflict",
    "RunNotFound",
    "Unavailable",
    "StorageUnavailable",
    "BrokerUnavailable",
    "Unauthorized",
    "ServerError",
    "ResultTimeout",
    "RunEnded",
    "RunFailed",
    "RunCancelled",
    "TimeLimitExceeded",
    "NoCurrentRun",
    "NotDurable",
    "WorkflowChanged",
    "WorkflowStuck",
    "HistoryLimitExceeded",
]

_WHERE: Final = {
    "app": ("Aiki",),
    "arguments": ("Call",),
    "context": (
        "CurrentRun",
        "NoCurrentRun",
        "current_run",
        "current_run_or_none",
    ),
    "errors": (
        "AikiError",
        "BrokerUnavailable",
        "ConfigurationError",
        "DecodeError",
        "EncodeError",
        "EventTimeout",
        "HistoryLimitExceeded",
        "NotDurable",
        "PayloadError",
        "PayloadTooLarge",
        "ReferenceConflict",
        "ResultTimeout",
        "RetryLater",
        "RunCancelled",
        "RunConflict",
        "RunEnded",
        "RunFailed",
        "RunNotFound",
        "ServerError",
        "SoftTimeLimitExceeded",
        "StepFailed",
        "StepTimedOut",
        "StorageUnavailable",
        "TaskCancelled",
        "TimeLimitExceeded",
        "Unauthorized",
        "Unavailable",
        "UnknownTask",
        "WorkflowCancelled",
        "WorkflowChanged",
        "WorkflowStuck",
    ),
    "futures": (
        "Future",
        "as_completed",
        "first",
        "gather",
    ),
    "handle": ("Handle",),
    "model": (
        "RunDetail",
        "RunView",
    ),
    "retry": ("RetryPolicy",),
    "settings": ("Settings",),
    "states": ("State",),
    "task": (
        "AsyncTask",
        "BoundTask",
        "Task",
    ),
    "workflow": ("Workflow",),
    "workflow_run": ("WorkflowRun",),
}
"""In which module each of them is."""
_MODULES: Final = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(f"aiki.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"aiki.{name}")  # `import aiki` alone has always made `aiki.errors` there
        except ModuleNotFoundError as error:
            if error.name != f"aiki.{name}":
                raise
    raise AttributeError(f"module 'aiki' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
