"""TLS to the database and to the broker, as options of their URLs: what their libraries read."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlencode

from aiki.errors import ConfigurationError

SYSTEM: Final = "system"
"""In place of a file: the certificate authorities that this machine trusts."""


def database_options(url: str, ca: str, cert: str, key: str, verify: str) -> str:
    """The database's URL with what it says of TLS; raises `ConfigurationError`."""
    if not (ca or cert or key or _unverified("database", verify)):
        return url
    if url.startswith("postgres"):
        return _with(url, _of_postgresql(ca, cert, key, verify))
    if not url.startswith(("mysql", "mariadb")):
        raise ConfigurationError(
            "the TLS settings of the database (AIKI_DATABASE_CA, …) are for mysql+pymysql:// and postgresql:// alone"
        )
    options = {"ssl_cert": cert, "ssl_key": key}
    if _unverified("database", verify):
        options["ssl_check_hostname"] = "false"  # and no authority: then the library looks at no certificate
    elif ca == SYSTEM or not ca:
        options["ssl_capath"] = ssl.get_default_verify_paths().capath or ssl.get_default_verify_paths().openssl_capath
    else:
        options["ssl_ca"] = ca
    return _with(url, options)


def _of_postgresql(ca: str, cert: str, key: str, verify: str) -> dict[str, str]:
    if _unverified("database", verify):
        return {"sslmode": "require", "sslcert": cert, "sslkey": key}
    return {"sslmode": "verify-full", "sslrootcert": ca or SYSTEM, "sslcert": cert, "sslkey": key}


def broker_options(url: str, ca: str, cert: str, key: str, verify: str) -> str:
    """The broker's URL with what it says of TLS; raises `ConfigurationError`."""
    unverified = _unverified("broker", verify)
    if not (ca or cert or key or unverified):
        return url
    urls = url.split(";")  # several nodes of a cluster
    if not all(one.strip().startswith("amqps:") for one in urls):
        raise ConfigurationError("the TLS settings of the broker (AIKI_BROKER_CA, …) are for amqps:// alone")
    options = {"ssl_certfile": cert, "ssl_keyfile": key, "ssl_ca_certs": "" if ca == SYSTEM else ca}
    if unverified:
        options["ssl_cert_reqs"] = "none"
    return ";".join(_with(one, options) for one in urls)


def _unverified(what: str, verify: str) -> bool:
    if verify not in ("yes", "no"):
        raise ConfigurationError(f"{what}_verify={verify!r}: it must be yes or no")
    return verify == "no"


def _with(url: str, options: dict[str, str]) -> str:
    given = urlencode({key: value for key, value in options.items() if value})
    return f"{url}{'&' if '?' in url else '?'}{given}" if given else url
