"""Settings: arguments before the environment before defaults, and errors that name the culprit."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiki.errors import ConfigurationError
from aiki.settings import Settings, check_name


def test_an_argument_wins_over_the_environment_and_that_over_the_default() -> None:
    environ = {"AIKI_PREFIX": "env", "AIKI_TIMEOUT": "2.5", "AIKI_PARTITIONS": "", "OTHER": "x"}
    settings = Settings.load(environ, prefix="given", namespace=None)
    assert (settings.prefix, settings.timeout, settings.partitions, settings.namespace) == ("given", 2.5, 0, "default")


def test_without_urls_it_is_the_embedded_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({})
    assert settings.database_url == f"sqlite:///{tmp_path}/.aiki/aiki.db"
    assert settings.broker_url == f"sqlite:///{tmp_path}/.aiki/broker.db"


@pytest.mark.parametrize("named", ["AIKI_BROKER_URL", "AIKI_DATABASE_URL", "AIKI_SERVER_URL"])
def test_with_one_url_no_other_is_made_up(named: str) -> None:
    settings = Settings.load({named: "amqp://host//" if "BROKER" in named else "mysql://host/aiki"})
    fields = {"AIKI_BROKER_URL": "broker_url", "AIKI_DATABASE_URL": "database_url", "AIKI_SERVER_URL": "server_url"}
    for variable, field in fields.items():
        assert bool(getattr(settings, field)) is (variable == named)
        if variable == named:
            settings.need(field, what="it")
            continue
        with pytest.raises(ConfigurationError, match=f"^it needs {variable}: set it beside {named} "):
            settings.need(field, what="it")


def test_arguments_and_environment_are_one_whole() -> None:
    settings = Settings.load({"AIKI_DATABASE_URL": "mysql://host/aiki"}, broker_url="amqp://host//")
    assert (settings.database_url, settings.broker_url) == ("mysql://host/aiki", "amqp://host//")
    # As the command line names a database: the server that the environment names is not asked, and nothing is made up.
    settings = Settings.load({"AIKI_SERVER_URL": "http://host"}, database_url="mysql://host/aiki", server_url="")
    assert settings.broker_url == ""


def test_secrets_come_from_files(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("a-secret-of-some-length\n")
    assert Settings.load({"AIKI_API_KEY_FILE": str(file)}).api_key == "a-secret-of-some-length"
    with pytest.raises(ConfigurationError, match="AIKI_API_KEY and AIKI_API_KEY_FILE are both set"):
        Settings.load({"AIKI_API_KEY_FILE": str(file), "AIKI_API_KEY": "x"})
    with pytest.raises(ConfigurationError, match=r"AIKI_API_KEY_FILE: the file /no/such cannot be read: No such file"):
        Settings.load({"AIKI_API_KEY_FILE": "/no/such"})
    file.write_text("\n")
    with pytest.raises(ConfigurationError, match="is empty"):
        Settings.load({"AIKI_API_KEY_FILE": str(file)})


def test_no_secret_is_shown() -> None:
    url = "amqp://me:s3cr3t@one//;amqp://me:s3cr3t/too@two//"
    settings = Settings.load({"AIKI_BROKER_URL": url, "AIKI_API_KEY": "s3cr3t", "AIKI_DATABASE_URL": "mysql://me:s3cr3t@h/x"})
    assert "s3cr3t" not in repr(settings)
    assert "one" in repr(settings)


def test_tls_is_for_every_node() -> None:
    settings = Settings.load({"AIKI_BROKER_URL": "amqps://one//;amqps://two//", "AIKI_BROKER_CA": "/ca.pem"})
    assert settings.broker_url == "amqps://one//?ssl_ca_certs=%2Fca.pem;amqps://two//?ssl_ca_certs=%2Fca.pem"


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"AIKI_PARTITIONS": "many"}, "AIKI_PARTITIONS='many': it must be of type int"),
        ({"AIKI_PARTITIONS": "65"}, "partitions=65"),
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
