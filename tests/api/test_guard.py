"""Who may ask."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aiki.api.guard import is_loopback_name
from aiki.api.server import resolve
from aiki.errors import ConfigurationError
from tests.api.conftest import Api, problem


@pytest.fixture
def locked(make_api: Callable[..., Api]) -> Api:
    """An app with an API key."""
    return make_api(api_key="right-key")


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", "Basic right-key", "right-key", "Bearer right-keyy", "Bearer r\u00efght"]
)
def test_a_wrong_key_is_401(locked: Api, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    for answer in (
        locked.get("/runs", headers=headers),
        locked.post("/runs", {}, headers=headers),
        locked.get("/no", headers=headers),
    ):
        told = problem(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "right" not in told["detail"]


def test_the_key_opens(make_api: Callable[..., Api]) -> None:
    locked = make_api(api_key="right-key", public_url="https://aiki.example.com/")
    headers = {"Authorization": "Bearer right-key", "Host": "aiki.example.com"}
    assert locked.get("/runs", headers=headers).status_code == 200


def test_health_is_open(locked: Api) -> None:
    for path in ("/healthz", "/readyz"):
        assert locked.http.get(path, headers={"Host": "10.0.0.7"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "a@localhost", ""]
)
def test_without_a_key_only_loopback_names_are_answered(api: Api, host: str) -> None:
    for path in ("/api/v1/runs", "/healthz"):
        problem(api.http.get(path, headers={"Host": host}), 403, "forbidden")
    assert not is_loopback_name(host)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8470", "127.0.0.1:1", "127.8.8.8", "[::1]:8470"])
def test_loopback_names(host: str) -> None:
    assert is_loopback_name(host)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_origins_change_nothing(api: Api, headers: dict[str, str]) -> None:
    problem(api.post("/runs", {"name": "shop.charge"}, headers={"Host": "localhost:8470", **headers}), 403, "forbidden")


def test_pages_of_our_own_may(api: Api) -> None:
    headers = {"Host": "localhost:8470", "Origin": "http://localhost:8470", "Sec-Fetch-Site": "same-origin"}
    assert api.post("/runs", {"name": "shop.charge"}, headers=headers).status_code == 201


@pytest.mark.parametrize(
    ("bind", "loopback"),
    [("127.0.0.1:8470", True), ("127.0.0.2:0", True), ("[::1]:1", True), ("0.0.0.0:1", False), ("[::]:1", False)],
)
def test_addresses(bind: str, loopback: bool) -> None:
    assert resolve(bind)[2] is loopback


@pytest.mark.parametrize(
    "bind", ["", ":8470", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "unix:/tmp/x", "no.such.host.invalid:1"]
)
def test_wrong_addresses_are_told(bind: str) -> None:
    with pytest.raises(ConfigurationError, match="--bind"):
        resolve(bind)
