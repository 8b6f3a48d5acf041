"""Settings: arguments before the environment before defaults, and errors that name the culprit."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiki.errors import ConfigurationError
from aiki.settings import Settings, check_name


def test_an_argument_wins_over_the_environment_and_that_over_the_default() -> None:
    environ = {"AIKI_PREFIX": "env", "AIKI_TIMEOUT": "2.5", "AIKI_PARTITIONS": "", "OTHER": "x"}
    settings = Settings.load(environ, prefix="given", namespace=None)
    assert (settings.prefix, settings.timeout, settings.partitions, settings.namespace) == ("given", 2.5, 4, "default")


def test_without_urls_it_is_the_embedded_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({})
    assert settings.database_url == f"sqlite:///{tmp_path}/.aiki/aiki.db"
    assert settings.broker_url == f"sqlite:///{tmp_path}/.aiki/broker.db"


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"AIKI_PARTITIONS": "many"}, "AIKI_PARTITIONS='many': it must be of type int"),
        ({"AIKI_PARTITIONS": "0"}, "partitions=0"),
        ({"AIKI_QUEUE_TYPE": "stream"}, "queue_type='stream'"),
        ({"AIKI_TIMEOUT": "0"}, "timeout"),
        ({"AIKI_TIMEOUT": "nan"}, "timeout"),
        ({"AIKI_TIMEOUT": "inf"}, "timeout"),
        ({"AIKI_LEASE": "1"}, "lease"),
        ({"AIKI_LEASE": "nan"}, "lease"),
        ({"AIKI_MAX_CRASHES": "0"}, "max_crashes"),
        ({"AIKI_MAX_PAYLOAD": "0"}, "max_payload"),
        ({"AIKI_COMPRESS_ABOVE": "-1"}, "compress_above"),
        ({"AIKI_NAMESPACE": "a/b"}, "namespace 'a/b'"),
        ({"AIKI_NAMESPACE": "x" * 65}, "namespace"),
        ({"AIKI_PREFIX": "a b"}, "prefix 'a b'"),
    ],
)
def test_nonsense_names_its_source(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Settings.load(environ)


def test_an_unknown_setting_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"unknown setting 'databse_url'.*database_url"):
        Settings.load({}, databse_url="x")


def test_names() -> None:
    assert check_name("queue", "a.B-9_") == "a.B-9_"
    for wrong in ("", "ä", "a/b", "a b", "x" * 65):
        with pytest.raises(ConfigurationError, match="use 1 to 64 letters"):
            check_name("queue", wrong)
