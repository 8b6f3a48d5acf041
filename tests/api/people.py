"""Somebody to ask as: users with sessions, keys, and the cheap passwords that tests use."""

from __future__ import annotations

import re
from typing import Any

from flask.testing import FlaskClient

from aiki.storage.passwords import Cost

CHEAP = Cost(4, 1, 1)
"""What hashing costs in tests: nothing."""
PASSWORD = "correct horse battery staple"


class Browser:
    """A browser of its own, with cookies."""

    def __init__(self, http: FlaskClient, base: str = "http://localhost") -> None:
        self.http = http
        self.base = base

    def open(self, path: str, method: str = "GET", **options: Any) -> Any:
        headers = {"Accept": "text/html", **options.pop("headers", {})}
        return self.http.open(path, method=method, base_url=self.base, headers=headers, **options)

    def token(self, path: str = "/sign-in") -> str:
        """The token in the forms of a page."""
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.open(path).text)
        assert found, "the page has no form"
        return found[1]

    def sign_in(self, name: str, password: str = PASSWORD, **fields: str) -> Any:
        data = {"name": name, "password": password, "csrf_token": self.token(), **fields}
        return self.open("/sign-in", "POST", data=data)

    def csrf(self) -> str:
        """The session's token, as a program that has the cookie asks for it."""
        return str(self.open("/api/v1/me").json["csrf_token"])
