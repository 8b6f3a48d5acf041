"""A task: a plain function that can also be enqueued."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, cast

from aiki import ids, tracing
from aiki.arguments import Arguments, Call, as_call
from aiki.clock import SECOND
from aiki.context import (
    called_directly,
    current_run_or_none,
    executing_workflow,
    refuse_in_workflow,
    return_from,
    workflow_here,
)
from aiki.errors import AikiError, ConfigurationError, NotDurable
from aiki.handle import Handle
from aiki.hooks import Hooks
from aiki.messages import OPT_SHAPE
from aiki.model import DefinitionInfo, NewRun, OnConflict
from aiki.options import (
    OPT_MAX_CRASHES,
    OnParentCancel,
    RunOptions,
    Seconds,
    TaskOptions,
    check_limits,
    check_reference,
    refuse,
)
from aiki.retry import RetryPolicy

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from aiki.app import Aiki
    from aiki.futures import Future

P = ParamSpec("P")
R = TypeVar("R")

CHUNK_RUNS: Final = 1000
CHUNK_BYTES: Final = 4 * 1024 * 1024
"""What `enqueue_many` records in one transaction."""

_RUN_OPTIONS: Final = (
    *("countdown", "eta", "queue", "expires", "reference_id", "on_conflict", "retry", "time_limit", "soft_time_limit"),
    *("max_crashes", "session", "connection", "run_id", "batch", "on_parent_cancel"),
)
_APPLY_OPTIONS: Final = (
    "args",
    "kwargs",
    "countdown",
    "eta",
    "queue",
    "expires",
    "retry",
    "task_id",
    "time_limit",
    "soft_time_limit",
)


class Task(Generic[P, R]):
    """A task, made by `@app.task`. Calling it calls the function; `enqueue` has a worker do it.

    :ivar name: what dispatches call it.
    :ivar fn: the plain function.
    :ivar defaults: what the definition says for all runs.
    """

    kind = "task"
    _own_parameters = 0
    __name__: str

    def __init__(self, app: Aiki, fn: Callable[P, R], *, name: str, version: str, defaults: TaskOptions) -> None:
        functools.update_wrapper(self, fn, updated=())
        self.app = app
        self.fn = fn
        self.name = name
        self.version = version
        self.defaults = defaults
        self.is_async = inspect.iscoroutinefunction(fn)
        self.arguments = Arguments(name, fn, self._own_parameters)
        self.plain: BoundTask[P, R] = BoundTask(self, RunOptions())

    @property
    def retry(self) -> RetryPolicy:
        """What follows when it raises."""
        return self.defaults.retry

    @property
    def time_limit(self) -> float | None:
        """Seconds after which its process is killed."""
        return self.defaults.time_limit

    @property
    def soft_time_limit(self) -> float | None:
        """Seconds after which `SoftTimeLimitExceeded` is raised in it."""
        return self.defaults.soft_time_limit

    @property
    def hooks(self) -> Hooks:
        """What the app has a worker call around its runs."""
        return self.app.hooks

    @property
    def info(self) -> DefinitionInfo:
        """The definition as the server knows it."""
        return DefinitionInfo(self.name, self.version, self.kind, self.defaults.to_wire())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now; inside a workflow, as a durable step (`task.fn` is always the plain function)."""
        run = workflow_here()
        if run is not None:
            return cast(R, run.call_task(self, args, kwargs))
        if self.is_async and current_run_or_none() is None:
            return cast(R, self._await(cast("Coroutine[Any, Any, R]", self.fn(*args, **kwargs))))
        call = called_directly(self.name, self.retry.max_attempts)
        try:
            return self.fn(*args, **kwargs)
        finally:
            return_from(call)

    async def _await(self, called: Coroutine[Any, Any, R]) -> R:
        """A function that is written as `async def`: the run that it sees is there while it is awaited."""
        call = called_directly(self.name, self.retry.max_attempts)
        try:
            return await called
        finally:
            return_from(call)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    # ------------------------------------------------------------ enqueue
    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Have a worker call it with these arguments. Once this has returned, the run reaches its end, whatever crashes.

        :raises TypeError: the function does not take these arguments.
        :raises aiki.PayloadError: an argument cannot be carried.
        :raises aiki.Unavailable: it could not be recorded within the time-out; asking again with the same `run_id` is safe.
        """
        return self.plain.enqueue(*args, **kwargs)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """As `enqueue`, for callers in an event loop."""
        return await self.plain.aenqueue(*args, **kwargs)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Inside a workflow: start a run of its own, for any worker, and go on; the future's `result()` waits for it."""
        return self.plain.submit(*args, **kwargs)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """The same as `enqueue`, by Celery's name."""
        return self.plain.enqueue(*args, **kwargs)

    def enqueue_many(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any] | Call]) -> list[Handle[R]]:
        """Enqueue many runs with few transactions and messages; see `BoundTask.enqueue_many`."""
        return self.plain.enqueue_many(calls)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Arguments for `enqueue_many`, checked by type checkers."""
        return Call(args, kwargs)

    def options(
        self,
        *,
        countdown: Seconds | None = None,
        eta: dt.datetime | None = None,
        queue: str | None = None,
        expires: Seconds | dt.datetime | None = None,
        reference_id: str | None = None,
        on_conflict: OnConflict = "error",
        retry: RetryPolicy | None = None,
        time_limit: Seconds | None = None,
        soft_time_limit: Seconds | None = None,
        max_crashes: int | None = None,
        session: Session | None = None,
        connection: Connection | None = None,
        run_id: str | None = None,
        batch: int | None = None,
        on_parent_cancel: OnParentCancel = "cancel",
        **unknown: Any,
    ) -> BoundTask[P, R]:
        """The task with options for the runs that are enqueued through it.

        :param countdown: do not run it for so long.
        :param eta: do not run it before this time (with a time zone).
        :param queue: the queue, instead of the definition's.
        :param expires: cancel it if it has not started by then: a span, or a time with a time zone.
        :param reference_id: unique for this task: enqueueing the same input again gives the same run.
        :param on_conflict: with another input, `error` raises `ReferenceConflict`, `return_existing` gives the run that exists.
            `retry_failed` gives it too, and retries it if it has failed, is dead or has expired, with the input that it has.
        :param retry, time_limit, soft_time_limit, max_crashes: instead of the definition's.
        :param session, connection: write the run in this SQLAlchemy transaction of the same database (embedded client only).
        :param run_id: an id of your own (a UUID), so that asking again is the same run.
        :param batch: how many runs one message may carry; by default it follows from how long they take.
        :param on_parent_cancel: for `submit`: `cancel`, or `abandon` to go on when the workflow that started it is cancelled.
        :raises ConfigurationError: an option is unknown or wrong.
        """
        where = f"options of {self.name}"
        for name in unknown:
            refuse(where, name, _RUN_OPTIONS)
        checked = RunOptions.check(
            where,
            countdown=countdown,
            eta=eta,
            queue=queue,
            expires=expires,
            reference_id=reference_id,
            on_conflict=on_conflict,
            retry=retry,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            max_crashes=max_crashes,
            session=session,
            connection=connection,
            run_id=run_id,
            batch=batch,
            on_parent_cancel=on_parent_cancel,
        )
        check_limits(where, checked.wire.get("sl", self.soft_time_limit), checked.wire.get("tl", self.time_limit))
        return BoundTask(self, checked)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: Seconds | None = None,
        eta: dt.datetime | None = None,
        queue: str | None = None,
        expires: Seconds | dt.datetime | None = None,
        retry: RetryPolicy | None = None,
        task_id: str | None = None,
        time_limit: Seconds | None = None,
        soft_time_limit: Seconds | None = None,
        **unknown: Any,
    ) -> Handle[R]:
        """Enqueue in Celery's manner; options of Celery's that do not exist here raise `ConfigurationError`."""
        for name in unknown:
            refuse(f"apply_async of {self.name}", name, _APPLY_OPTIONS)
        bound = self.options(
            countdown=countdown,
            eta=eta,
            queue=queue,
            expires=expires,
            retry=retry,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            run_id=task_id,
        )
        return bound.enqueue_call(Call(tuple(args or ()), kwargs or {}))


class AsyncTask(Task[P, R]):
    """A task written as `async def`: calling it gives a coroutine; its runs' results are of the awaited type."""

    if TYPE_CHECKING:
        fn: Callable[P, Coroutine[Any, Any, R]]  # type: ignore[assignment]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """Call the function: a coroutine, to be awaited here."""


class BoundTask(Generic[P, R]):
    """A task with options for its runs, made by `task.options(...)`; can be used many times."""

    __slots__ = ("_options", "_seen", "_wire", "task")

    def __init__(self, task: Task[P, R], options: RunOptions) -> None:
        self.task = task
        self._options = options
        # What the definition says reaches the worker with the definition; only the orchestrator needs to be told of crashes.
        own = task.defaults.max_crashes
        self._wire = {**({} if own is None else {OPT_MAX_CRASHES: own}), **options.wire}
        self._seen = False

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """See `Task.enqueue`."""
        return self._send([self._new_run(args, kwargs)])[0]

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """See `Task.submit`."""
        run = workflow_here()
        if run is None:
            raise NotDurable(f"{self.task.name}.submit(...) works inside a workflow only; elsewhere use enqueue(...)")
        if self._options.session is not None or self._options.connection is not None:
            raise ConfigurationError(
                "session= and connection= are for enqueue: a workflow's runs are recorded with its history"
            )
        return cast("Future[R]", run.submit_task(self, args, kwargs))

    @property
    def abandon(self) -> bool:
        """Whether a run that a workflow starts goes on when the workflow is cancelled."""
        return self._options.on_parent_cancel == "abandon"

    @property
    def has_reference(self) -> bool:
        """Whether the runs have a reference id, under which another one may be known already."""
        return self._options.reference_id is not None

    def new_child(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], now: int) -> NewRun:
        """The run that `submit` asks for; spans of time count from `now`."""
        run = self._new_run(args, kwargs)
        self._set_times([run], now)
        return run

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """As `enqueue`, for callers in an event loop."""
        if self._options.session is not None or self._options.connection is not None:
            raise ConfigurationError(
                "aenqueue cannot write in your transaction, which belongs to this thread; call enqueue(), with an AsyncSession "
                "as `await session.run_sync(lambda s: task.options(session=s).enqueue(...))`"
            )
        self._check_place()
        runs = [self._new_run(args, kwargs)]
        return (await asyncio.to_thread(self._send, runs))[0]

    def enqueue_call(self, call: Call) -> Handle[R]:
        """Enqueue one `Call`."""
        return self._send([self._new_run(call.args, call.kwargs, call.reference_id)])[0]

    def enqueue_many(self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any] | Call]) -> list[Handle[R]]:
        """Enqueue a run for each item: a tuple of positional arguments, a dict of keyword arguments, or `task.call(...)`.

        All are checked and encoded first, so that a wrong one raises before anything is recorded. They are recorded in
        transactions of up to 1,000 runs, each all or none (with `session=` yours is the only one). Should a later one fail,
        the error's note says how many were recorded.
        """
        if self._options.reference_id is not None or self._options.run_id is not None:
            raise ConfigurationError(
                "enqueue_many: reference_id= and run_id= name one run; give each item its own: Call(args, reference_id=...)"
            )
        runs = []
        for position, item in enumerate(calls):
            try:
                if type(item) is tuple:
                    runs.append(self._new_run(item, _NONE))
                    continue
                call = as_call(item, position)
                runs.append(self._new_run(call.args, call.kwargs, call.reference_id))
            except (TypeError, AikiError) as error:
                error.add_note(f"enqueue_many: this is item {position}; nothing was enqueued")
                raise
        handles: list[Handle[R]] = []
        for chunk in _chunks(runs):
            try:
                handles += self._send(chunk)
            except AikiError as error:
                error.add_note(f"enqueue_many: {len(handles):,} of {len(runs):,} runs were enqueued before this")
                raise
        return handles

    def __repr__(self) -> str:
        return f"<BoundTask {self.task.name}>"

    # ------------------------------------------------------------ inside
    def _new_run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], reference_id: str | None = None) -> NewRun:
        task, options = self.task, self._options
        settings = task.app.settings
        if not self._seen:  # not before: what annotations name may be defined after the task
            self._wire[OPT_SHAPE] = task.arguments.digest
            self._seen = True
        payload = task.arguments.encode(args, kwargs, limit=settings.payload_limit, compress_above=settings.compress_above)
        return NewRun(
            options.run_id or ids.new_text(),
            task.name,
            payload,
            options.queue or task.defaults.queue,
            task.version,
            task.kind,
            options.due_at,
            options.expires_at,
            self._wire,
            options.reference_id if reference_id is None else check_reference(task.name, reference_id),
            options.on_conflict,
        )

    def _check_place(self) -> None:
        """Raise `NotDurable` in a workflow's own code."""
        if executing_workflow():
            name = self.task.name
            refuse_in_workflow(f"enqueue of {name}", f"Start it with {name.rpartition('.')[2]}.submit(...)")

    def _send(self, runs: Sequence[NewRun]) -> list[Handle[R]]:
        self._check_place()
        task, options = self.task, self._options
        app = task.app
        if options.delay is not None or options.expires_in is not None or task.defaults.expires is not None:
            self._set_times(runs, app.client.now())
        name = task.name
        with tracing.producing("enqueue", name, runs):
            accepted = app.send(runs, session=options.session, connection=options.connection, batch=options.batch)
        return [Handle(app, item.id, name) for item in accepted]

    def _set_times(self, runs: Sequence[NewRun], now: int) -> None:
        options = self._options
        due = options.due_at if options.delay is None else now + int(options.delay * SECOND)
        expires = options.expires_at if options.expires_in is None else now + int(options.expires_in * SECOND)
        if expires is None and self.task.defaults.expires is not None:
            # The definition's span counts from when the run may start, or every long countdown would expire.
            expires = max(now, due or 0) + int(self.task.defaults.expires * SECOND)
        for run in runs:
            run.due_at, run.expires_at = due, expires


_NONE: Final[Mapping[str, Any]] = {}


def _chunks(runs: Sequence[NewRun]) -> Iterator[Sequence[NewRun]]:
    start = size = 0
    for position, run in enumerate(runs):
        weight = len(run.input.text) + 300
        if position > start and (position - start >= CHUNK_RUNS or size + weight > CHUNK_BYTES):
            yield runs[start:position]
            start, size = position, 0
        size += weight
    if start < len(runs):
        yield runs[start:]
