"""Aiki: tasks and durable workflows for Python teams that run RabbitMQ and MySQL."""

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
