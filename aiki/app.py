"""The app: where tasks are defined, and the way to everything that was enqueued."""

from __future__ import annotations

import datetime as dt
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from aiki import failures
from aiki import handle as handles
from aiki.classes import CLASSES
from aiki.context import refuse_in_workflow
from aiki.errors import ConfigurationError, UnknownTask
from aiki.handle import Handle
from aiki.hooks import AnyHook, Hooks
from aiki.ids import parse_id
from aiki.model import Accepted, NewRun, RunFilter, RunView
from aiki.naming import default_name, place
from aiki.options import MAX_VERSION, Seconds, TaskOptions, check_task_name, is_plain, moment, refuse
from aiki.retry import RetryPolicy
from aiki.settings import Settings, check_name
from aiki.states import State
from aiki.task import AsyncTask, Task
from aiki.workflow import Workflow
from aiki.workflow_run import WorkflowRun

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from aiki.client import Client

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_TASK_OPTIONS = ("name", "queue", "retry", "time_limit", "soft_time_limit", "expires", "version", "max_crashes")
_PAGE = 200
_IN_WORKFLOWS = (
    "Start runs with task.submit(...), wait for them with the future's result(), for others with run.wait_event(name), and use "
    "what `run` has"
)


class Decorator(Protocol):
    """What `@app.task(...)` makes: a decorator that keeps the function's types."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...


class WorkflowDecorator(Protocol):
    """What `@app.workflow(...)` makes."""

    def __call__(self, fn: Callable[Concatenate[WorkflowRun, P], R], /) -> Workflow[P, R]:
        """Make a function a workflow."""


class Aiki:
    """An app: its tasks and workflows, and a client made from its settings.

    Nothing is connected to before something is asked for. Settings that are not given come from the environment (`AIKI_*`),
    read when they are first needed; an unknown or malformed setting raises at once.

    :param name: tells apps of one process apart, and names this one in audit records.
    :param server_url: the server's address: use it over HTTP. Without it this process uses database and broker itself.
    :param api_key: the server's bearer key.
    :param database_url, broker_url: the database and the broker; by default two SQLite files under `.aiki/`.
    :param namespace: the tenant that all runs belong to.
    :param timeout: seconds that `enqueue` and other calls may take.
    :param max_payload: largest encoded argument list or result, in bytes.
    :param settings: further fields of `aiki.Settings`.
    """

    def __init__(
        self,
        name: str = "app",
        *,
        server_url: str | None = None,
        api_key: str | None = None,
        database_url: str | None = None,
        broker_url: str | None = None,
        namespace: str | None = None,
        timeout: float | None = None,
        max_payload: int | None = None,
        **settings: Any,
    ) -> None:
        self.name = check_name("app name", name)
        self._given: dict[str, Any] = {
            **{"server_url": server_url, "api_key": api_key, "database_url": database_url, "broker_url": broker_url},
            **{"namespace": namespace, "timeout": timeout, "max_payload": max_payload},
            **settings,
        }
        for option in settings:
            if option not in Settings.__slots__:
                refuse("Aiki", option, Settings.__slots__)
        Settings.load({}, **self._given)  # what is wrong here and now is told here and now
        self._settings: Settings | None = None
        self._client: Client | None = None
        self._lock = threading.RLock()
        self._tasks: dict[tuple[str, str], Task[..., Any]] = {}
        self._registered = 0
        self.hooks = Hooks()
        handles.apps[self.name] = self
        _apps.add(self)

    @property
    def settings(self) -> Settings:
        """The settings: arguments, then the environment as it is when this is first asked for, then defaults."""
        if self._settings is None:
            self._settings = Settings.load(**self._given)
        return self._settings

    def use_broker(self, url: str) -> None:
        """Have this broker in place of the app's own, in everything that is done from here on: what `--broker` does."""
        with self._lock:
            self._given["broker_url"] = url
            self._settings = None
        self.close()

    @property
    def definitions(self) -> Mapping[str, Task[..., Any]]:
        """All tasks and workflows by name; of several versions the one that was defined last."""
        return MappingProxyType({name: task for (name, _), task in self._tasks.items()})

    @property
    def versions(self) -> Mapping[tuple[str, str], Task[..., Any]]:
        """All tasks and workflows by name and version."""
        return MappingProxyType(self._tasks)

    def __repr__(self) -> str:
        return f"<Aiki {self.name}: {len(self._tasks)} definitions>"

    # ------------------------------------------------------------ define
    @overload
    def task(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, fn: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        queue: str | None = None,
        retry: RetryPolicy | None = None,
        time_limit: Seconds | None = None,
        soft_time_limit: Seconds | None = None,
        expires: Seconds | None = None,
        version: str = "1",
        max_crashes: int | None = None,
    ) -> Decorator: ...
    # `unknown` is in no overload, so that type checkers refuse what is refused at run time, with a hint.
    def task(  # type: ignore[misc]
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        retry: RetryPolicy | None = None,
        time_limit: Seconds | None = None,
        soft_time_limit: Seconds | None = None,
        expires: Seconds | None = None,
        version: str = "1",
        max_crashes: int | None = None,
        **unknown: Any,
    ) -> Any:
        """Make a function a task: `@app.task`, or `@app.task(queue="mail", retry=RetryPolicy.exponential())`.

        :param name: what it is called everywhere; by default `module.function`.
        :param queue: the queue of its runs, `default` if not told.
        :param retry: what follows when it raises; by default nothing.
        :param time_limit: seconds (or a timedelta) after which the process that runs it is killed.
        :param soft_time_limit: seconds after which `SoftTimeLimitExceeded` is raised in it.
        :param expires: a run that has not started so long after it could have is cancelled.
        :param version: told beside the name; change it when old runs must not meet new code.
        :param max_crashes: how often a run may kill its process before it is dead.
        :raises ConfigurationError: an option is unknown or wrong, or the name is taken by another function.
        """
        given = {"queue": queue, "retry": retry, "time_limit": time_limit, "soft_time_limit": soft_time_limit}
        given |= {"expires": expires, "max_crashes": max_crashes}
        return self._decorate("task", fn, name, version, given, unknown)

    @overload
    def workflow(self, fn: Callable[Concatenate[WorkflowRun, P], R], /) -> Workflow[P, R]: ...
    @overload
    def workflow(
        self,
        *,
        name: str | None = None,
        version: str = "1",
        queue: str | None = None,
        retry: RetryPolicy | None = None,
        time_limit: Seconds | None = None,
        soft_time_limit: Seconds | None = None,
        expires: Seconds | None = None,
        max_crashes: int | None = None,
    ) -> WorkflowDecorator: ...
    def workflow(  # type: ignore[misc]
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        version: str = "1",
        queue: str | None = None,
        retry: RetryPolicy | None = None,
        time_limit: Seconds | None = None,
        soft_time_limit: Seconds | None = None,
        expires: Seconds | None = None,
        max_crashes: int | None = None,
        **unknown: Any,
    ) -> Any:
        """Make a function a durable workflow: `@app.workflow`, or `@app.workflow(version="2")`. It takes the run first.

        :param version: a run is pinned to the version that it was enqueued with; versions live side by side.
        :param retry: what follows when the function raises: it goes on from the step that failed.
        :param time_limit, soft_time_limit: of one call of the function, between two waits.
        :raises ConfigurationError: an option is unknown or wrong, or name and version are taken by another function.

        The other options are as for `task`.
        """
        given = {"queue": queue, "retry": retry, "time_limit": time_limit, "soft_time_limit": soft_time_limit}
        given |= {"expires": expires, "max_crashes": max_crashes}
        return self._decorate("workflow", fn, name, version, given, unknown)

    def _decorate(
        self,
        kind: str,
        fn: Callable[..., Any] | None,
        name: str | None,
        version: str,
        given: Mapping[str, Any],
        unknown: Mapping[str, Any],
    ) -> Any:
        if fn is not None and not callable(fn):
            raise ConfigurationError(f"@app.{kind}({fn!r}): options are given by name, for example @app.{kind}(name={fn!r})")
        where = f"@app.{kind}" + (f" of {name}" if name else "")
        for option in unknown:
            refuse(where, option, _TASK_OPTIONS)
        defaults = TaskOptions.check(where, **given)
        if not is_plain(version, MAX_VERSION):
            raise ConfigurationError(
                f"{where}: version={version!r}: it must be 1 to {MAX_VERSION} printable characters, without spaces around them"
            )

        def define(function: Callable[..., Any]) -> Task[..., Any]:
            return self._define(kind, function, name, version, defaults)

        return define if fn is None else define(fn)

    def _define(
        self, kind: str, fn: Callable[..., Any], name: str | None, version: str, defaults: TaskOptions
    ) -> Task[..., Any]:
        if isinstance(fn, Task):
            raise ConfigurationError(f"{fn.name} is a {fn.kind} already; @app.{kind} must stand once")
        if isinstance(fn, type) or not callable(fn):
            raise ConfigurationError(f"@app.{kind} stands over a function, not {fn!r}")
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise ConfigurationError(f"{place(fn)}: a {kind} cannot be a generator; return a list")
        chosen = check_task_name(f"@app.{kind}", name if name is not None else default_name(fn))
        made = self._make(kind, fn, chosen, version, defaults)
        CLASSES.add(fn)
        failures.trust(fn)
        with self._lock:
            known = self._tasks.get((chosen, version))
            if known is not None and place(known.fn) != place(fn):
                raise ConfigurationError(
                    f"two {kind}s are named {chosen!r}: one at {place(known.fn)}, one at {place(fn)}; "
                    "give one of them another name= (or another version=, to have both side by side)"
                )
            self._tasks.pop((chosen, version), None)  # so that the one defined last stands last
            self._tasks[chosen, version] = made
            self._registered = 0
        return made

    def _make(self, kind: str, fn: Callable[..., Any], name: str, version: str, defaults: TaskOptions) -> Task[..., Any]:
        is_async = inspect.iscoroutinefunction(fn)
        if kind == "workflow":
            if is_async:
                raise ConfigurationError(
                    f"{place(fn)}: a workflow is a plain function, not `async def`; what it awaits are steps (run.step)"
                )
            return Workflow(self, fn, name=name, version=version, defaults=defaults)
        return (AsyncTask if is_async else Task)(self, fn, name=name, version=version, defaults=defaults)

    def register_type(
        self,
        cls: type[T],
        encode: Callable[[T], Any] | None = None,
        decode: Callable[[Any], T] | None = None,
        *,
        formerly: Sequence[str] = (),
    ) -> None:
        """Have values of a class carried, wherever they occur. Do it where the tasks are defined, so that each process does.

        A class that the signatures of tasks and workflows name, or a field of what they name, needs it only to be carried in
        another way. Those that no signature names (subclasses, say) may be registered without functions.

        :param encode: gives plain data of a value: anything that is carried.
        :param decode: gives the equal value of these data. Both are tried whenever a value is encoded.
        :param formerly: names that the class had before it was moved or renamed, as `module:Class`: stored values have them.
        :raises ConfigurationError: it is of no kind that can be carried without functions, or only one is given.
        """
        CLASSES.register(cls, encode, decode, formerly)

    # ------------------------------------------------------------ hooks of its workers
    def on_worker_start(self, fn: AnyHook) -> AnyHook:
        """Have a worker call it once, when everything is imported and before the first child is forked: close here what must
        not be shared with the children. If it raises, the worker does not start."""
        return self.hooks.add("worker_start", fn)

    def on_child_start(self, fn: AnyHook) -> AnyHook:
        """Have each child of a worker call it before it takes its first run. If it raises, another child is tried, ever
        later."""
        return self.hooks.add("child_start", fn)

    def on_child_stop(self, fn: AnyHook) -> AnyHook:
        """Have each child of a worker call it when it has done its last run; not if it is killed. What it raises is logged."""
        return self.hooks.add("child_stop", fn)

    def around_run(self, fn: AnyHook) -> AnyHook:
        """Have each attempt of a task, each step of a workflow, and each call of a workflow's function executed at the `yield`
        of this function, which takes the run (`run.kind` tells the three apart). The first that is given is the outermost.

        What it raises is the attempt's error; what it swallows was raised all the same. With `async def` it is entered around
        asynchronous tasks and steps alone, in their event loop.
        """
        return self.hooks.surround(fn)

    # ------------------------------------------------------------ ask
    @property
    def client(self) -> Client:
        """The client: over HTTP if there is a server's URL, else embedded. Made when it is first needed.

        All that asks or acts goes through it; so it is refused to the code of workflows, outside of their steps.

        :raises NotDurable: a workflow's own code asks for it.
        """
        refuse_in_workflow("something that acts or reads outside of the workflow", _IN_WORKFLOWS)
        client = self._client
        if client is None:
            with self._lock:
                client = self._client
                if client is None:
                    # Not imported before: a worker whose tasks enqueue nothing never loads a database library.
                    from aiki.client import open_client

                    client = self._client = open_client(self.settings, self.name)
        return client

    def handle(self, run_id: str) -> Handle[Any]:
        """The handle of a run whose id is known. Raises `ConfigurationError` for what is no id; asks nobody."""
        parsed = parse_id(str(run_id))
        if parsed is None:
            raise ConfigurationError(f"{run_id!r} is not a run id; run ids are UUIDs")
        return Handle(self, str(parsed))

    def runs(
        self,
        *,
        state: State | str | Sequence[State | str] = (),
        name: str | None = None,
        queue: str | None = None,
        reference_id: str | None = None,
        created_after: dt.datetime | None = None,
        created_before: dt.datetime | None = None,
        kind: str | None = None,
        parent: str | None = None,
        limit: int | None = None,
    ) -> Iterator[RunView]:
        """Runs, newest first, fetched page by page as they are looked at.

        :param state: one state or several; by default all.
        :param kind: `task` or `workflow`.
        :param parent: the id of a workflow's run: what it started.
        :param limit: how many at most.
        """
        states = (state,) if isinstance(state, str) else tuple(state)
        if kind not in (None, "task", "workflow"):
            raise ConfigurationError(f"runs: kind={kind!r}: it must be 'task' or 'workflow'")
        refuse_in_workflow("app.runs(...)", _IN_WORKFLOWS)
        where = RunFilter(
            states=tuple(_state(item) for item in states),
            name=name,
            queue=queue,
            reference_id=reference_id,
            created_after=None if created_after is None else moment("runs", "created_after", created_after),
            created_before=None if created_before is None else moment("runs", "created_before", created_before),
            kind=kind,
            parent_id=None if parent is None else self.handle(parent).id,
        )
        return self._pages(where, limit)

    def _pages(self, where: RunFilter, limit: int | None) -> Iterator[RunView]:
        left = float("inf") if limit is None else limit
        after: str | None = None
        while left > 0:
            page = self.client.list(where, limit=int(min(left, _PAGE)), after=after)
            yield from page.runs
            left -= len(page.runs)
            after = page.next
            if after is None:
                return

    def send(
        self,
        runs: Sequence[NewRun],
        *,
        session: Session | None = None,
        connection: Connection | None = None,
        batch: int | None = None,
    ) -> list[Accepted]:
        """Have runs recorded and dispatched, after making this app's definitions known. What `enqueue` calls."""
        client = self.client
        inside = session is not None or connection is not None
        if self._registered != len(self._tasks) and not inside:
            # Not beside a transaction of the caller's: on SQLite that would wait for its lock. A later call sees to it.
            self._register(client)
        try:
            return client.enqueue(runs, session=session, connection=connection, batch=batch)
        except UnknownTask as error:
            if error.name not in self.definitions:
                raise
            self._register(client)  # the server's database is a new one
            return client.enqueue(runs, session=session, connection=connection, batch=batch)

    def _register(self, client: Client) -> None:
        with self._lock:
            tasks = list(self._tasks.values())
        client.register([task.info for task in tasks])
        self._registered = len(tasks)

    # ------------------------------------------------------------ end
    def close(self) -> None:
        """Publish what is on its way and let go of connections. Using the app again opens it again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _after_fork(self) -> None:
        self._lock = threading.RLock()  # another thread of the parent may have held it


def _state(value: State | str) -> State:
    try:
        return State(value)
    except ValueError:
        raise ConfigurationError(f"runs: there is no state {value!r}; states are {', '.join(State)}") from None


_apps: weakref.WeakSet[Aiki] = weakref.WeakSet()


def _after_fork() -> None:
    for app in list(_apps):
        app._after_fork()


os.register_at_fork(after_in_child=_after_fork)
