"""The app: settings, definitions, names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiki import Aiki, ConfigurationError, RetryPolicy, State
from aiki.storage import Store
from aiki.task import AsyncTask, Task


def test_settings_are_read_when_they_are_first_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Aiki(timeout=2)
    monkeypatch.setenv("AIKI_NAMESPACE", "later")
    monkeypatch.setenv("AIKI_TIMEOUT", "9")
    assert (app.settings.namespace, app.settings.timeout) == ("later", 2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"database_ulr": "x"}, "did you mean 'database_url'"),
        ({"max_payload": "many"}, "max_payload='many': it must be of type int"),
        ({"namespace": "a b"}, "namespace 'a b'"),
        ({"name": "a b"}, "app name 'a b'"),
    ],
)
def test_wrong_settings_raise_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Aiki(**options)  # type: ignore[arg-type]


def test_a_task_is_a_definition(app: Aiki) -> None:
    policy = RetryPolicy.exponential(4)

    @app.task(
        name="shop.charge", queue="money", retry=policy, time_limit=9, soft_time_limit=5, expires=60, version="2", max_crashes=1
    )
    def charge(order: str) -> str:
        """Take the money."""
        return order

    @app.task
    async def mail(to: str) -> int:
        return 1

    assert isinstance(charge, Task)
    assert isinstance(mail, AsyncTask)
    assert dict(app.definitions) == {"shop.charge": charge, f"{__name__}.mail": mail}
    assert (charge.name, charge.version, charge.kind, charge.is_async, charge.retry) == (
        "shop.charge",
        "2",
        "task",
        False,
        policy,
    )
    assert (charge.time_limit, charge.soft_time_limit, charge.__doc__) == (9.0, 5.0, "Take the money.")
    assert mail.is_async
    assert charge("o-1") == charge.fn("o-1") == "o-1"
    assert charge.info.options == {
        **{"queue": "money", "retry": policy.to_wire(), "time_limit": 9.0, "soft_time_limit": 5.0},
        **{"expires": 60.0, "max_crashes": 1},
    }
    with pytest.raises(TypeError):
        app.definitions["x"] = charge  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_retires": 3}, "max_retires"),
        ({"max_retries": 3}, "max_attempts"),
        ({"quue": "x"}, "did you mean 'queue'"),
        ({"bind": True}, "current_run"),
        ({"ignore_result": True}, "results are always recorded"),
        ({"autoretry_for": (ValueError,)}, "retry_on"),
        ({"acks_late": True}, "nothing is needed"),
        ({"serializer": "pickle"}, "never pickle"),
        ({"retry": 3}, r"RetryPolicy.exponential\(max_attempts=3\)"),
        ({"queue": "a/b"}, "queue 'a/b'"),
        ({"time_limit": 0}, "time_limit=0"),
        ({"time_limit": float("nan")}, "time_limit=nan"),
        ({"time_limit": 5, "soft_time_limit": 5}, "soft_time_limit=5 must be below"),
        ({"expires": "1h"}, "expires='1h'"),
        ({"max_crashes": 0}, "max_crashes=0"),
        ({"version": 2}, "version=2"),
        ({"name": " x"}, "name=' x'"),
    ],
)
def test_wrong_options_are_told_where_they_are_written(app: Aiki, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):

        @app.task(**options)  # type: ignore[call-overload]
        def charge() -> None: ...


def test_odd_functions_are_refused(app: Aiki) -> None:
    def numbers() -> object:
        yield 1

    with pytest.raises(ConfigurationError, match="generator"):
        app.task(numbers)
    with pytest.raises(ConfigurationError, match="no name of its own"):
        app.task(lambda: 1)
    with pytest.raises(ConfigurationError, match="over a function"):
        app.task(int)
    with pytest.raises(ConfigurationError, match=r"@app.task\(name='x'\)"):
        app.task("x")  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="is a task already"):
        app.task(app.task(test_odd_functions_are_refused))


def test_two_tasks_of_one_name_are_named_with_their_places(app: Aiki) -> None:
    @app.task(name="charge")
    def first() -> None: ...

    with pytest.raises(ConfigurationError, match=r"test_app.py:\d+ .*first\).* test_app.py|test_app.py:\d+ .*second"):

        @app.task(name="charge")
        def second() -> None: ...

    app.task(name="charge")(first.fn)  # the same function, imported again


def test_a_script_registers_under_its_modules_name(tmp_path: Path) -> None:
    script = tmp_path / "bakery.py"
    script.write_text(
        "from aiki import Aiki\napp = Aiki()\n@app.task\ndef bake() -> None: ...\n"
        "import sys\nheavy = {'sqlalchemy', 'kombu', 'flask', 'urllib3'} & set(sys.modules)\n"
        "if __name__ == '__main__': print(bake.name, sorted(heavy))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for command in (["bakery.py"], ["-m", "bakery"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "bakery.bake []", "and loads no library that a worker does not need"


def test_runs_are_listed_page_by_page(app: Aiki, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiki.app._PAGE", 3)

    @app.task(name="charge", queue="money")
    def charge(number: int) -> None: ...

    made = charge.enqueue_many([(i,) for i in range(8)])
    assert [run.id for run in app.runs()] == [handle.id for handle in reversed(made)]
    assert len(list(app.runs(limit=5))) == 5
    assert len(list(app.runs(state="queued", queue="money", name="charge"))) == 8
    assert list(app.runs(state=[State.FAILED, "dead"])) == []
    with pytest.raises(ConfigurationError, match="no state 'done'"):
        app.runs(state="done")
    assert [item.name for item in store.definitions()] == ["charge"]
    assert json.dumps(store.definitions()[0].options)


def test_a_closed_app_opens_again(app: Aiki) -> None:
    @app.task(name="charge")
    def charge() -> None: ...

    with app:
        handle = charge.enqueue()
    assert handle.status() is State.QUEUED
