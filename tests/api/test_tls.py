"""Whom a real server starts for, and TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aiki.errors import ConfigurationError, StorageUnavailable
from aiki.settings import Settings
from aiki.storage import Store, upgrade
from tests.api.live import LiveServer

Live = Callable[..., LiveServer]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Files with a certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aiki test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    kind = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.write_bytes(key.private_bytes(*kind))
    return str(cert_file), str(key_file)


def test_a_server_speaks_https(live: Live, certificate: tuple[str, str]) -> None:
    cert, key = certificate
    server = live("--bind", "127.0.0.1:0", AIKI_TLS_CERT=cert, AIKI_TLS_KEY=key)
    server.http = urllib3.PoolManager(retries=False, timeout=30.0, ca_certs=cert)
    server.wait_ready()
    assert server.url.startswith("https://")
    assert server.ask("GET", "/api/v1/me")[2]["kind"] == "local"
    answer = server.http.request("GET", f"{server.url}/api/v1/stream", preload_content=False, timeout=10.0)
    assert answer.read1(5), "streams go over TLS too"
    answer.close()


def test_a_wrong_certificate_stops_it(live: Live, certificate: tuple[str, str]) -> None:
    server = live(AIKI_TLS_CERT=certificate[0], AIKI_TLS_KEY=certificate[0])
    assert server.exit_code() == 2
    assert "tls_cert=" in server.text()


def test_with_a_user_it_listens_anywhere(live: Live, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'people.db'}"
    upgrade(url)
    store = Store(url)
    key, _ = store.add_key("ci", "viewer")
    store.close()
    server = live("--bind", "0.0.0.0:0", AIKI_DATABASE_URL=url).wait_ready()
    assert server.ask("GET", "/api/v1/runs")[0] == 401
    assert server.ask("GET", "/api/v1/runs", headers={"Authorization": f"Bearer {key}"})[0] == 200


def test_behind_a_proxy_it_is_not_open_either(live: Live) -> None:
    server = live(AIKI_TRUSTED_PROXIES="127.0.0.1")
    assert server.exit_code() == 2
    assert "AIKI_TRUSTED_PROXIES" in server.text()


@pytest.mark.parametrize(
    ("given", "database", "broker"),
    [
        ({}, "mysql+pymysql://u:p@h/d", "amqps://u:p@h/v"),
        (
            {"database_ca": "/ca.pem", "broker_ca": "/b.pem"},
            "mysql+pymysql://u:p@h/d?ssl_ca=%2Fca.pem",
            "amqps://u:p@h/v?ssl_ca_certs=%2Fb.pem",
        ),
        (
            {"database_cert": "/c", "database_key": "/k", "database_ca": "/ca", "broker_cert": "/c", "broker_key": "/k"},
            "mysql+pymysql://u:p@h/d?ssl_cert=%2Fc&ssl_key=%2Fk&ssl_ca=%2Fca",
            "amqps://u:p@h/v?ssl_certfile=%2Fc&ssl_keyfile=%2Fk",
        ),
        (
            {"database_verify": "no", "broker_verify": "no"},
            "mysql+pymysql://u:p@h/d?ssl_check_hostname=false",
            "amqps://u:p@h/v?ssl_cert_reqs=none",
        ),
    ],
)
def test_settings_say_it_in_the_urls(given: dict[str, str], database: str, broker: str) -> None:
    made = Settings.load({}, database_url="mysql+pymysql://u:p@h/d", broker_url="amqps://u:p@h/v", **given)
    assert (made.database_url, made.broker_url) == (database, broker)


@pytest.mark.parametrize(
    "given",
    [
        {"broker_url": "amqp://h/v", "broker_ca": "/ca"},
        {"database_url": "sqlite:////x", "database_ca": "/ca"},
        {"broker_url": "amqps://h/v", "broker_verify": "maybe"},
        {"tls_cert": "/c"},
        {"session_idle": 1},
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        Settings.load({}, **given)


def test_a_database_without_tls_is_not_used_in_the_clear(mysql_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library goes on without when the server, or somebody in between, says that it has none."""
    from pymysql.constants import CLIENT

    monkeypatch.setattr(CLIENT, "SSL", 0)
    store = Store(f"{mysql_database}?ssl_check_hostname=false")
    with pytest.raises(StorageUnavailable, match=r"no TLS|SSL is required"):
        store.ping()
    store.close()
