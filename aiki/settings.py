"""Settings: arguments of `Aiki(...)` and the commands, then environment variables `AIKI_*`, then defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from aiki.errors import ConfigurationError

EMBEDDED_DIR = ".aiki"
MAX_SECONDS = 86400
DEFAULT_NAMESPACE = "default"
DEFAULT_MASK = (
    "*password*,*passwd*,passphrase,*secret*,*token*,authorization,*apikey*,*accesskey*,*privatekey*,*credential*,cookie,"
    "card,cardnumber,pan,cvv,cvc,iban,ssn"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """One process's settings. Each field's environment variable is `AIKI_` and its name in capitals.

    :ivar server_url: the server's address for the remote client; empty means embedded (database and broker from here).
    :ivar api_key: the bearer key that clients send and the server asks for; empty means none (loopback only).
    :ivar metrics_token: a bearer token that opens the server's `/metrics` and nothing else; empty means none.
    :ivar public_url: where people reach the server, for links; empty means that there are none.
    :ivar webhook_private: 1: webhooks may go to addresses that are not public.
    :ivar retention: how long ended runs are kept, see `aiki.retention`; empty means for ever.
    :ivar run_logs: 1: workers report what runs log; 0: they do not.
    :ivar database_url: SQLAlchemy URL, `mysql+pymysql://…` or `sqlite:///…`.
    :ivar broker_url: see `aiki.broker.open_broker`.
    :ivar prefix: begins the name of every exchange and queue.
    :ivar namespace: the tenant all of this process's runs belong to.
    :ivar partitions: number of report queues; all processes must agree.
    :ivar queue_type: `classic` or `quorum`, for the durable RabbitMQ queues. Classic is as safe on one node; on a cluster
        choose quorum.
    :ivar max_payload: largest encoded argument list or result, in bytes.
    :ivar compress_above: compress payloads larger than this many bytes; 0 is never.
    :ivar timeout: seconds that `enqueue` and other calls may take.
    :ivar lease: seconds without a heartbeat after which a worker is lost.
    :ivar max_crashes: how often executing a run may kill its process before the run is dead.
    :ivar history_steps, history_bytes: how long a workflow's history may become before the run must continue as new.
    :ivar batch_rate: to how many runs a second an orchestrator does what operators ask of many.
    :ivar session_idle, session_lifetime: seconds without a request, and in all, after which who is signed in must sign in anew.
    :ivar trusted_proxies: addresses or networks, by commas, whose `X-Forwarded-*` headers the server believes.
    :ivar mask: keys, by commas, whose values only admins see; see `aiki.api.masking.Mask`.
    :ivar tls_cert, tls_key: files (PEM) with the server's own certificate and key: it then speaks https.
    :ivar database_ca, broker_ca: file with the authorities that the other side's certificate must come from; `system`: this
        machine's. `…_cert`, `…_key`: files with one's own certificate; `…_verify`: `no` looks at no certificate.
    """

    server_url: str = ""
    api_key: str = ""
    metrics_token: str = ""
    public_url: str = ""
    webhook_private: int = 0
    retention: str = ""
    run_logs: int = 1
    database_url: str = ""
    broker_url: str = ""
    prefix: str = "aiki"
    namespace: str = DEFAULT_NAMESPACE
    partitions: int = 4
    queue_type: str = "classic"
    max_payload: int = 8 * 1024 * 1024
    compress_above: int = 0
    timeout: float = 5.0
    lease: float = 20.0
    max_crashes: int = 3
    history_steps: int = 25_000
    history_bytes: int = 8 * 1024 * 1024
    session_idle: float = 12 * 3600
    session_lifetime: float = 7 * 86400
    trusted_proxies: str = ""
    batch_rate: float = 500.0
    mask: str = DEFAULT_MASK
    tls_cert: str = ""
    tls_key: str = ""
    database_ca: str = ""
    database_cert: str = ""
    database_key: str = ""
    database_verify: str = "yes"
    broker_ca: str = ""
    broker_cert: str = ""
    broker_key: str = ""
    broker_verify: str = "yes"

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """Settings from arguments (those that are not None), the environment and the defaults.

        Without any URL the embedded default is used: two SQLite files in `.aiki/` under the working directory.

        :raises ConfigurationError: an unknown setting, or a value that is not of its type.
        """
        environ = os.environ if environ is None else environ
        types: dict[str, type[Any]] = {item.name: type(item.default) for item in fields(cls)}
        unknown = set(given) - set(types)
        if unknown:
            raise ConfigurationError(f"unknown setting {sorted(unknown)[0]!r}; there are: {', '.join(sorted(types))}")
        values: dict[str, Any] = {}
        for name, kind in types.items():
            variable = f"AIKI_{name.upper()}"
            value = given.get(name)
            source = name
            if value is None:
                value, source = environ.get(variable), variable
            if value is None or value == "":
                continue
            try:
                values[name] = kind(value)
            except (TypeError, ValueError):
                raise ConfigurationError(f"{source}={value!r}: it must be of type {kind.__name__}") from None
        values.setdefault("database_url", embedded_url("aiki.db"))
        values.setdefault("broker_url", embedded_url("broker.db"))
        values.update(_tls(values))
        made = cls(**values)
        made._check()
        return made

    def _check(self) -> None:
        if not 1 <= self.partitions <= 64:
            raise ConfigurationError(f"partitions={self.partitions}: it must be from 1 to 64")
        if self.queue_type not in ("classic", "quorum"):
            raise ConfigurationError(f"queue_type={self.queue_type!r}: it must be classic or quorum")
        # Written so that NaN is refused too.
        for name, value, least in (("timeout", self.timeout, 0.001), ("lease", self.lease, 5)):
            if not least <= value <= MAX_SECONDS:
                raise ConfigurationError(f"{name}={value}: it must be from {least} to {MAX_SECONDS} seconds")
        counts = [("max_crashes", self.max_crashes, 1), ("max_payload", self.max_payload, 1)]
        counts += [("history_steps", self.history_steps, 10), ("history_bytes", self.history_bytes, 10_000)]
        for name, count, least in counts:
            if count < least:
                raise ConfigurationError(f"{name}={count}: it must be {least} or more")
        if not 0.1 <= self.batch_rate <= 100_000:
            raise ConfigurationError(f"batch_rate={self.batch_rate}: it must be from 0.1 to 100000 runs a second")
        if self.compress_above < 0:
            raise ConfigurationError(f"compress_above={self.compress_above}: it must be 0 (never) or more")
        if self.webhook_private not in (0, 1):
            raise ConfigurationError(f"webhook_private={self.webhook_private}: it must be 0 or 1")
        if self.retention:
            from aiki.retention import parse  # only where it is set

            parse(self.retention)
        if bool(self.tls_cert) is not bool(self.tls_key):
            raise ConfigurationError("tls_cert and tls_key: give both, or neither")
        for name, value, least in (("session_idle", self.session_idle, 60), ("session_lifetime", self.session_lifetime, 60)):
            if not least <= value <= 366 * MAX_SECONDS:
                raise ConfigurationError(f"{name}={value}: it must be from {least} to {366 * MAX_SECONDS} seconds")
        check_name("namespace", self.namespace)
        check_name("prefix", self.prefix)


def _tls(values: Mapping[str, Any]) -> dict[str, str]:
    """The URLs of database and broker, with what the settings say of TLS."""
    names = ("ca", "cert", "key", "verify")
    if not any(f"{what}_{name}" in values for what in ("database", "broker") for name in names):
        return {}
    from aiki import tls  # only where it is set

    def given(what: str) -> list[str]:
        return [str(values.get(f"{what}_{name}", "yes" if name == "verify" else "")) for name in names]

    return {
        "database_url": tls.database_options(values["database_url"], *given("database")),
        "broker_url": tls.broker_options(values["broker_url"], *given("broker")),
    }


def embedded_url(file: str) -> str:
    """The URL of one of the embedded default's files."""
    return f"sqlite:///{Path(EMBEDDED_DIR).absolute() / file}"


def check_name(what: str, value: str) -> str:
    """`value` if it can name a queue, a namespace or a worker; else `ConfigurationError`."""
    if not 1 <= len(value) <= 64 or not all(c.isascii() and (c.isalnum() or c in "._-") for c in value):
        raise ConfigurationError(f"{what} {value!r}: use 1 to 64 letters, digits, dots, hyphens and underscores")
    return value
