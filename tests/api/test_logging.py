"""What the server logs of requests."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from aiki import logs
from aiki.api import ApiOptions
from tests.api.conftest import Api


def test_lines_of_a_request_carry_its_id(make_api: Callable[..., Api]) -> None:
    lines: list[dict[str, object]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(logs.JsonFormatter().format(record)))

    keep = Keep()
    logger = logging.getLogger("aiki.api.access")
    logger.addHandler(keep)
    logger.setLevel(logging.INFO)
    try:
        api = make_api(ApiOptions(access_log=True), api_key="hunter22hunter22")
        api.get("/workers", headers={"X-Request-ID": "r-17", "Authorization": "Bearer hunter22hunter22"})
    finally:
        logger.removeHandler(keep)
    (found,) = lines
    assert (found["request_id"], found["method"], found["path"], found["status"]) == ("r-17", "GET", "/api/v1/workers", 200)
    assert "hunter22" not in str(found)
    assert "request_id" not in logs.context_of(logging.makeLogRecord({}))
