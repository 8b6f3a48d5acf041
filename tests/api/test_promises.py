"""What an attacker tries who has some access: each test is a promise of docs/security.md."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from aiki import codec
from aiki.api import ApiOptions, guard
from aiki.api.access import Principal, Role
from aiki.api.hub import Hub
from aiki.api.limiting import Limiter
from aiki.api.server import LEAST_SECRET, ServerOptions, main
from aiki.broker import open_broker
from aiki.classes import Classes
from aiki.codec import JSON, Payload
from aiki.dashboard import install
from aiki.errors import ConfigurationError
from aiki.masks import MASK, Mask
from aiki.settings import DEFAULT_MASK, Settings
from aiki.storage import Store, passwords
from aiki.storage.auditing import AuditFilter
from tests.api.conftest import Api, problem
from tests.api.people import CHEAP, PASSWORD

Make = Callable[..., Api]
MASKING = Mask(DEFAULT_MASK.split(","))


def _as(role: Role, kind: Any = "user", name: str = "bob") -> ApiOptions:
    return ApiOptions(principal=Principal(name, role, kind))


# ---------------------------------------------------------------- names of the server
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "a@localhost"])
def test_a_key_opens_nothing_under_another_name(make_api: Make, host: str) -> None:
    """A page whose own name was made to mean this machine is told by its `Host`, whatever key comes with it."""
    headers = {"Authorization": "Bearer the-right-key", "Host": host}
    for given in ({}, {"public_url": "https://aiki.example.com/"}):
        api = make_api(api_key="the-right-key", **given)
        problem(api.get("/runs", headers=headers), 403, "forbidden")
    elsewhere = make_api(ApiOptions(local=False), api_key="the-right-key", public_url="https://aiki.example.com/")
    problem(elsewhere.get("/runs", headers=headers), 403, "forbidden")


def test_the_names_that_settings_tell_are_answered(make_api: Make) -> None:
    given = {
        "api_key": "the-right-key",
        "public_url": "https://Aiki.example.com:8443/x",
        "allowed_hosts": "aiki-server, b.internal",
    }
    for local in (True, False):
        api = make_api(ApiOptions(local=local), **given)
        for host in (
            "aiki.example.com",
            "AIKI.example.com.:443",
            "aiki-server:8470",
            "b.internal",
            "127.0.0.1:8470",
            "10.0.0.1",
        ):
            headers = {"Authorization": "Bearer the-right-key", "Host": host}
            assert api.get("/runs", headers=headers).status_code == 200, host


@pytest.mark.parametrize("path", ["/api/v1/stream", "/api/v1/runs/export", "/api/v1/runs", "/runs", "/"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_pages_fetch_nothing_from_a_server_without_sign_in(make_api: Make, path: str, site: str) -> None:
    api = make_api()
    install(api.http.application)
    for more in (
        {},
        {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ):
        assert api.http.get(path, headers={"Sec-Fetch-Site": site, **more}).status_code == 403
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert api.http.get(path, headers=link).status_code == (403 if path.startswith("/api") else 200), (
        "a link to a page is followed"
    )


def test_a_proxy_does_not_make_plain_sign_in_local(make_api: Make) -> None:
    api = make_api(ApiOptions(local=False), trusted_proxies="127.0.0.1", public_url="https://aiki.example.com")
    install(api.http.application)
    for headers in ({"X-Forwarded-Host": "localhost"}, {"X-Forwarded-Host": "localhost", "X-Forwarded-For": "127.0.0.1"}):
        page = api.http.get("/sign-in", headers=headers)
        token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
        form = {"name": "ann", "password": PASSWORD, "csrf_token": token}
        answer = api.http.post("/sign-in", data=form, headers=headers)
        assert answer.status_code == 400
        assert "https" in answer.text


# ---------------------------------------------------------------- guesses
def test_a_password_that_is_too_long_takes_as_long_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "COST", CHEAP)
    kept = passwords.hashed(PASSWORD)
    derived: list[int] = []
    real = passwords._derive

    def counted(password: str, salt: bytes, cost: passwords.Cost) -> bytes:
        derived.append(len(password))
        return real(password, salt, cost)

    monkeypatch.setattr(passwords, "_derive", counted)
    for password in ("wrong", "x" * 1001, PASSWORD + "x" * 1000):
        assert not passwords.verified(password, kept)
        with_user = derived.copy()
        derived.clear()
        assert not passwords.verify_nothing(password)
        assert with_user == derived == [min(len(password), passwords.MAX_LENGTH)], "with and without such a user"
        derived.clear()


def test_nobody_locks_anothers_account(make_api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "COST", CHEAP)
    store = make_api().store
    store.add_user("ann", PASSWORD, "admin")
    refused = 0
    for number in range(12):
        try:
            assert store.sign_in("ann", f"guess {number}", "192.0.2.1", 60) is None
        except Exception:
            refused += 1
    assert refused == 7
    assert store.sign_in("ann", PASSWORD, "198.51.100.1", 60) is not None


def test_wrong_api_keys_are_throttled_and_right_ones_are_not(make_api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(guard, "Limiter", lambda rate, *, burst: Limiter(rate, lambda: now[0], burst=burst))
    api = make_api(ApiOptions(local=False), api_key="the-right-key-0815")

    def answer(key: str, **more: Any) -> int:
        return api.get("/runs", headers={"Authorization": f"Bearer {key}", **more.pop("headers", {})}, **more).status_code

    assert answer("the-right-key-0815") == 200
    told = [answer(f"guess-{number}") for number in range(60)]
    assert told == [401] * guard.WRONG_KEYS + [429] * (60 - guard.WRONG_KEYS)
    assert answer("the-right-key-0815") == 200, "a key that was right is not kept waiting by guesses"
    assert answer("x", environ_base={"REMOTE_ADDR": "192.0.2.7"}) == 401
    assert answer("guess", headers={"X-Forwarded-For": "192.0.2.9"}) == 429, (
        "what a client says of its address counts for nothing"
    )
    now[0] += 1.0
    assert [answer("guess"), answer("guess")] == [401, 429], "one a second from then on"


@pytest.mark.parametrize("name", ["api_key", "metrics_token"])
def test_a_server_takes_no_short_secret(tmp_path: Path, name: str) -> None:
    settings = Settings.load(
        {}, database_url=f"sqlite:///{tmp_path / 'a.db'}", broker_url=f"sqlite:///{tmp_path / 'b.db'}", **{name: "a" * 15}
    )
    with pytest.raises(ConfigurationError, match=f"use {LEAST_SECRET} or more") as caught:
        main(settings, ServerOptions())
    assert "a" * 15 not in str(caught.value)


# ---------------------------------------------------------------- what is masked
def test_the_audit_confirms_no_guess_of_what_is_masked(make_api: Make) -> None:
    api = make_api(_as(Role.OPERATOR))
    api.register()
    run = api.new_run(kwargs={"order": 1, "password": "s3cret"})
    for guess in ("s3cret", "other"):
        assert api.post(f"/runs/{run}/rerun", {"args": [], "kwargs": {"order": 1, "password": guess}}).status_code == 201
    assert api.post(f"/runs/{run}/rerun", {"args": [], "kwargs": {"order": 2, "password": "s3cret"}}).status_code == 201
    told = [json.loads(item.detail) for item in api.store.audit_log(AuditFilter(action="rerun"))]
    after = [item["input_after"] for item in reversed(told)]
    assert after[0] == after[1] == told[0]["input_before"], "right or wrong"
    assert after[2] != after[0], "what is not masked is told apart"
    import hashlib

    text = api.store.detail(run).input.text  # type: ignore[union-attr]
    assert hashlib.sha256(f"json\n{text}".encode()).hexdigest() not in str(told), "nobody can make it of a guess"


def test_a_reference_id_confirms_no_guess(make_api: Make) -> None:
    secret = {"name": "shop.charge", "reference_id": "order-1", "kwargs": {"password": "s3cret"}}
    program = make_api(_as(Role.OPERATOR, "key", "key:ci"))
    program.register()
    made = program.post("/runs", secret)
    assert made.status_code == 201
    operator = make_api(_as(Role.OPERATOR))
    wrong = {**secret, "kwargs": {"password": "wrong"}}
    for more in ({}, {"id": made.json["id"]}):  # type: ignore[index]
        told = [operator.post("/runs", {**guess, **more}) for guess in (secret, wrong)]
        assert told[0].status_code == told[1].status_code
        seen = [{key: value for key, value in item.json.items() if key != "request_id"} for item in told]  # type: ignore[union-attr]
        assert seen[0] == seen[1]
        told = [operator.post("/runs/batch", {"runs": [{**guess, **more}]}) for guess in (secret, wrong)]
        assert told[0].status_code == told[1].status_code
    assert program.post("/runs", secret).status_code == 200, "whoever may see it is told"
    assert program.post("/runs", wrong).status_code == 409
    key = {"Idempotency-Key": "once"}
    mine = {**secret, "reference_id": "order-2"}
    assert [operator.post("/runs", mine, headers=key).status_code for _ in range(2)] == [201, 201], (
        "repeating one's own is no guess"
    )


class Field(Enum):
    """Keys of a mapping."""

    PASSWORD = 1
    ORDER = 2


@pytest.mark.parametrize(
    "value",
    [
        {Field.PASSWORD: "s3cret", Field.ORDER: "seen"},
        {("user", "password"): "s3cret", ("user", "order"): "seen"},
        {1: {"api_key": "s3cret"}, 2: "seen"},
        {b"x": [{Field.PASSWORD: {"deep": "s3cret"}}], 2: "seen"},
    ],
)
def test_keys_that_are_no_text_are_masked_too(value: Any) -> None:
    declared = Classes()
    declared.register(Field)
    payload = codec.encode([[value], {}], known=declared)
    assert "s3cret" in payload.text
    shown = MASKING.apply_to_payload(payload)
    assert shown is not None
    assert "s3cret" not in shown.text
    assert "seen" in shown.text
    assert MASK in shown.text
    for end in range(len(payload.text)):
        assert "s3cret" not in MASKING.apply_to_text(payload.text[:end]).value, "the beginning of it tells no more"
    assert MASKING.apply_to_payload(Payload(JSON, "[[1],{}]")) == Payload(JSON, "[[1],{}]")


# ---------------------------------------------------------------- shares and roles
def test_one_principal_has_a_share_of_the_streams() -> None:
    hub = Hub(500, 8)
    greedy = [hub.listen([], owner="greedy") for _ in range(505)]
    assert sum(listener is not None for listener in greedy) == 250
    others = [hub.listen([], owner=f"team-{number}") for number in range(100)]
    assert None not in others
    for listener in greedy:
        if listener is not None:
            hub.leave(listener)
    assert hub.listen([], owner="greedy") is not None
    hub.close()
    assert sum(Hub(500, 8).listen([]) is not None for _ in range(3)) == 3


def test_a_role_that_was_taken_away_tells_no_old_answer(make_api: Make) -> None:
    operator = make_api(_as(Role.OPERATOR))
    operator.register()
    asked: dict[str, Any] = {"headers": {"Idempotency-Key": "once"}}
    assert operator.post("/runs", {"name": "shop.charge"}, **asked).status_code == 201
    assert operator.post("/runs", {"name": "shop.charge"}, **asked).headers["Idempotency-Replayed"] == "true"
    viewer = make_api(_as(Role.VIEWER))
    problem(viewer.post("/runs", {"name": "shop.charge"}, **asked), 403, "forbidden")
    assert [item.outcome for item in viewer.store.audit_log(AuditFilter(action="runs.enqueue"))] == ["refused"]


# ---------------------------------------------------------------- files
def test_files_are_their_owners_alone_in_a_directory_that_exists(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        tmp_path.chmod(0o755)
        broker = open_broker(f"sqlite:///{tmp_path / 'broker.db'}")
        session = broker.connect("test")
        store = Store(f"sqlite:///{tmp_path / 'aiki.db'}")
        with store.db.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE t (a)")
            files = sorted(tmp_path.iterdir())
            assert {"aiki.db-wal", "aiki.db-shm", "broker.db-wal", "broker.db-shm"} < {file.name for file in files}
            assert {file.name: file.stat().st_mode & 0o077 for file in files} == {file.name: 0 for file in files}
        session.close()
        store.close()
        assert sqlite3.connect(tmp_path / "aiki.db").execute("SELECT count(*) FROM t").fetchone() == (0,)
    finally:
        os.umask(before)


def test_a_mask_takes_no_long_time() -> None:
    began = time.monotonic()
    MASKING.apply_to_text('{"$aiki":"dict"' * 20_000)
    assert time.monotonic() - began < 2
