"""What a hostile user, an admin of one namespace, or a hostile page tries."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from aiki.api import ApiOptions
from aiki.api.access import Principal, Role
from aiki.api.masking import EXTENSION, MASK, Mask, restored, visible
from aiki.codec import JSON, Payload
from aiki.dashboard import install
from aiki.filters import Pattern, parse
from aiki.orchestrator.webhooks import is_public
from aiki.settings import DEFAULT_MASK
from tests.api.conftest import Api
from tests.api.live import LiveServer

MASKING = Mask(DEFAULT_MASK.split(","))
NESTED = {
    "lists": lambda depth: "[" * depth + "]" * depth,
    "objects": lambda depth: '{"a":' * depth + "1" + "}" * depth,
    "tuples": lambda depth: '{"$aiki":"tuple","v":[' * depth + "]}" * depth,
}


@pytest.mark.parametrize(
    "text", ['[[],{"a":"' + '\\"' * 30_000, '"' + '\\"' * 30_000 + "\\\n", '"' * 30_001, '"' + "\\" * 30_001]
)
def test_a_payload_that_is_no_json_does_not_keep_the_server_busy(text: str) -> None:
    began = time.monotonic()
    MASKING.apply_to_text(text)
    assert time.monotonic() - began < 2  # it took 25 s


def test_a_secret_whose_string_is_cut_off_is_masked() -> None:
    assert MASKING.apply_to_text('{"user":"ann","password":"s3cr').value == '{"user":"ann","password":"[masked]"'


def test_pairs_are_masked_however_they_are_written() -> None:
    text = '[[], {"d": {"$aiki" : "dict", "v": [["password", "s3cret"], [1, 2]]}}]'
    viewer = Principal("ann", Role.VIEWER, "user")
    app = Flask("test")
    app.extensions[EXTENSION] = MASKING
    with app.app_context():
        seen = visible(Payload(JSON, text), viewer)
    assert seen is not None
    assert "s3cret" not in seen.text


def test_batches_of_one_namespace_keep_no_other_waiting(make_api: Callable[..., Api]) -> None:
    api = make_api()
    for namespace, many in (("a", 6), ("z", 1)):
        api.http.environ_base["HTTP_X_AIKI_NAMESPACE"] = namespace
        api.register()
        for _ in range(many):
            told = api.post("/batches", {"operation": "cancel", "ids": [api.new_run()]})
            assert told.status_code == 201, told.text
    claimed = [lease.namespace for _ in range(2) for lease in api.store.claim_batches("orchestrator", limit=4)]
    assert "z" in claimed


@pytest.mark.parametrize(
    "edited",
    [
        {"$aiki": "dict", "v": [["visible", MASK], [1, 2]]},
        {"$aiki": "tuple", "v": [["password", MASK], [1, 2]]},
        {"v": [["password", MASK], [1, 2]]},
        [["password", MASK], [1, 2]],
    ],
)
def test_no_edit_brings_a_secret_under_another_key(edited: Any) -> None:
    original = {"x": {"$aiki": "dict", "v": [["password", "s3cret"], [1, 2]]}}
    assert "s3cret" not in str(MASKING.apply(restored({"x": edited}, original)).value)


def test_pairs_whose_keys_stay_are_restored() -> None:
    original = {"$aiki": "dict", "v": [["password", "s3cret"], [1, 2]]}
    edited = {"$aiki": "dict", "v": [["password", MASK], [1, 3]]}
    assert restored(edited, original) == {"$aiki": "dict", "v": [["password", "s3cret"], [1, 3]]}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("shape", NESTED)
def test_what_is_nested_deeply_can_be_looked_at(make_api: Callable[..., Api], role: Role, shape: str) -> None:
    admin = make_api()
    admin.register()
    asks = make_api(ApiOptions(principal=Principal("ann", role, "user"))).http
    install(asks.application)
    for depth in (120, 240, 260, 400, 900, 5000):
        text = f'[[],{{"a":{NESTED[shape](depth)}}}]'
        run = admin.new_run(input={"encoding": "json", "text": text})
        for path in (f"/api/v1/runs/{run}/detail", f"/runs/{run}", f"/runs/{run}/payload/input"):
            assert asks.get(path).status_code in (200, 403), (depth, path)
        if role is not Role.VIEWER:
            assert asks.get(f"/runs/{run}/do/edit").status_code == 200, depth


@pytest.mark.parametrize("q", ["args.d.0.1:s3*", "args.d.v.0.1:s3cret", "args.d.0:*s3*", "args.0.0.1:s3cret"])
def test_no_filter_finds_a_secret_by_its_place(make_api: Callable[..., Api], q: str) -> None:
    admin = make_api()
    admin.register()
    pairs = {"$aiki": "dict", "v": [["password", "s3cret"], [7, "seven"]]}
    run = admin.new_run(args=[pairs], kwargs={"d": pairs})
    viewer = make_api(ApiOptions(principal=Principal("ann", Role.VIEWER, "user")))
    answer = viewer.get("/runs", query_string={"q": q})
    assert answer.status_code == 400 or answer.json["runs"] == []  # type: ignore[index]
    assert viewer.get("/runs?q=args.d.password:s3cret").status_code == 400
    assert [found["id"] for found in admin.get("/runs?q=args.d.password:s3cret").json["runs"]] == [run]  # type: ignore[index]
    assert [found["id"] for found in viewer.get("/runs?q=args.d.7:seven").json["runs"]] == [run]  # type: ignore[index]


def test_a_batch_does_not_tell_what_its_filter_asked_for(make_api: Callable[..., Api]) -> None:
    admin = make_api()
    viewer = make_api(ApiOptions(principal=Principal("ann", Role.VIEWER, "user")))
    install(viewer.http.application)
    admin.register()
    admin.new_run(kwargs={"password": "s3cret"})
    q = "args.password:s3cret name:shop.*"
    batch = admin.post("/batches", {"operation": "cancel", "q": q}).json
    assert batch["target"]["q"] == q  # type: ignore[index]
    address = f"/batches/{batch['id']}"  # type: ignore[index]
    assert viewer.get(address).json["target"]["q"] == "args.password:[masked] name:shop.*"  # type: ignore[index]
    for page in (f"/api/v1{address}", "/api/v1/batches", address, "/batches"):
        answer = viewer.http.get(page)
        assert answer.status_code == 200
        assert "s3cret" not in answer.text


def test_the_audit_does_not_tell_what_the_filter_of_a_batch_asked_for(make_api: Callable[..., Api]) -> None:
    admin = make_api()
    operator = make_api(ApiOptions(principal=Principal("ann", Role.OPERATOR, "user")))
    install(operator.http.application)
    admin.register()
    admin.new_run(kwargs={"password": "s3cret"})
    admin.post("/batches", {"operation": "cancel", "q": "args.password:s3cret"})
    assert "s3cret" in admin.get("/audit").text
    for page in ("/api/v1/audit", "/audit"):
        answer = operator.http.get(page)
        assert answer.status_code == 200
        assert "batch_cancel" in answer.text
        assert "args.password" in answer.text
        assert "s3cret" not in answer.text


def test_a_digit_that_is_no_number_is_the_name_of_an_argument(make_api: Callable[..., Api]) -> None:
    api = make_api()
    api.register()
    api.new_run(args=["x"])
    assert api.get("/runs", query_string={"q": "args.²:x"}).json["runs"] == []  # type: ignore[index]


def test_many_wildcards_take_no_time(make_api: Callable[..., Api]) -> None:
    api = make_api()
    api.register()
    api.new_run(kwargs={"x": "a" * 2000})
    began = time.monotonic()
    assert api.get("/runs?q=args.x:*a*a*a*a*b").json["runs"] == []  # type: ignore[index]
    assert len(api.get("/runs?q=args.x:*a*a*a*a*").json["runs"]) == 1  # type: ignore[index]
    assert time.monotonic() - began < 5  # it took minutes


@pytest.mark.parametrize(
    ("pattern", "meant", "other"),
    [
        ("a*", ["a", "ab"], ["", "ba"]),
        ("*a", ["a", "ba"], ["ab"]),
        ("ab*ba", ["abba", "ab-ba"], ["aba", "ab", "abb"]),
        ("*b*", ["b", "abc"], ["ac"]),
        ("a*b*c", ["abc", "a-b-c", "abbc"], ["acb", "ac", "abcd"]),
        ("*ab*ab*", ["abab", "ab ab"], ["ab", "aba"]),
    ],
)
def test_patterns(pattern: str, meant: list[str], other: list[str]) -> None:
    value = parse(f"args.x:{pattern}").terms[0].values[0]
    assert isinstance(value, Pattern)
    assert all(map(value.matches, meant))
    assert not any(map(value.matches, other))


def test_pages_count_against_the_rate_limit(make_api: Callable[..., Api]) -> None:
    api = make_api(ApiOptions(rate_limit=1))
    install(api.http.application)
    told = [api.http.get("/runs", headers={"Accept": "text/html"}) for _ in range(4)]
    assert told[-1].status_code == 429
    assert int(told[-1].headers["Retry-After"]) >= 1


def test_an_edit_that_is_nested_deeply_is_refused(make_api: Callable[..., Api]) -> None:
    api = make_api()
    api.register()
    run = api.new_run(kwargs={"a": 1})
    deep = '{"kwargs":{"a":' + "[" * 900 + "]" * 900 + "}}"
    answer = api.http.post(f"/api/v1/runs/{run}/rerun", data=deep, content_type="application/json")
    assert answer.status_code in (400, 422)


def test_a_webhooks_secret_is_told_once(make_api: Callable[..., Api]) -> None:
    api = make_api()
    asked = {"url": "https://hooks.example.com/aiki"}
    first, second = (api.post("/webhooks", asked, headers={"Idempotency-Key": "k-1"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 409)
    assert first.json["secret"] not in second.text  # type: ignore[index]
    assert len(api.store.webhooks()) == 1


def test_checks_are_of_the_namespace_of_who_asks(make_api: Callable[..., Api], tmp_path: Path) -> None:
    here = make_api()
    theirs = make_api(ApiOptions(principal=Principal("bob", Role.ADMIN, "user", frozenset({"other"}))))
    for api in (here, theirs):
        install(api.http.application)
    here.register()
    here.new_run()
    (tmp_path / "broker.db").touch()
    assert "1 queued" in here.http.get("/settings?check=1").text
    page = theirs.http.get("/settings?check=1").text
    assert "none yet" in page
    assert "1 queued" not in page


@pytest.mark.parametrize(("name", "status"), [("theirs", 404), ("%00", 400)])
def test_a_namespace_that_is_not_ones_own_is_told_on_a_page(make_api: Callable[..., Api], name: str, status: int) -> None:
    api = make_api(ApiOptions(principal=Principal("bob", Role.VIEWER, "user", frozenset({"other"}))))
    install(api.http.application)
    answer = api.http.get(f"/runs?namespace={name}", headers={"Accept": "text/html"})
    assert answer.status_code == status
    assert answer.mimetype == "text/html"


def test_an_address_that_is_none_breaks_nothing(make_api: Callable[..., Api]) -> None:
    api = make_api(ApiOptions(local=False))
    install(api.http.application)
    headers = {"HX-Request": "true", "HX-Current-URL": "http://[", "Accept": "text/html"}
    answer = api.http.get("/runs", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["HX-Redirect"] == "/sign-in?next=/"


@pytest.mark.parametrize("address", ["fec0::1", "::7f00:1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "0.0.0.0", "100.64.0.1", "::"])
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_no_header_says_under_which_path_the_server_is(tmp_path: Path) -> None:
    """Links of live parts, which are shared by many, would lead where one of them wants."""
    server = LiveServer(tmp_path / "server").wait_ready()
    try:
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), 10) as sock:
            head = f"GET //evil.example/healthz HTTP/1.1\r\nHost: {host}:{port}\r\nSCRIPT_NAME: //evil.example\r\n"
            sock.sendall(f"{head}Connection: close\r\n\r\n".encode())
            assert sock.makefile("rb").readline().split()[1] == b"404"
    finally:
        server.stop()
