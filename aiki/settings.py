"""Settings: arguments of `Aiki(...)` and the commands, then environment variables `AIKI_*`, then defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from aiki.ceilings import MAX_MESSAGE, MESSAGE_ROOM
from aiki.errors import ConfigurationError

EMBEDDED_DIR = ".aiki"
URLS: Final = ("server_url", "database_url", "broker_url")
"""The settings that say where things are, taken as a whole."""
SECRETS: Final = frozenset({"api_key", "metrics_token", "worker_key"})
"""Settings whose values are shown to nobody."""
MAX_SECONDS = 86400
MAX_PARTITIONS: Final = 64
DEFAULT_PARTITIONS: Final = 4
"""Of a new installation."""
DEFAULT_NAMESPACE = "default"
_PUBLIC: Final = re.compile(r"https?://[^/?#@\s\\]+((?:/[A-Za-z0-9._~-]+)*/*)", re.IGNORECASE)
DEFAULT_MASK = (
    "*password*,*passwd*,passphrase,*secret*,*token*,authorization,*apikey*,*accesskey*,*privatekey*,*credential*,cookie,"
    "card,cardnumber,pan,cvv,cvc,iban,ssn"
)


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """One process's settings. Each field's environment variable is `AIKI_` and its name in capitals.

    :ivar server_url: the server's address for the remote client; empty means embedded (database and broker from here).
    :ivar api_key: the bearer key that clients send and the server asks for; empty means none (loopback only).
    :ivar api_key_file, metrics_token_file: files that hold those, read when the process starts.
    :ivar metrics_token: a bearer token that opens the server's `/metrics` and nothing else; empty means none.
    :ivar public_url: where people reach the server, for links, and the path under which it is; see `public_path`. Empty: there
        are no links.
    :ivar allowed_hosts: further names, by commas, under which the server is reached; see `aiki.api.guard`.
    :ivar webhook_private: 1: webhooks may go to addresses that are not public.
    :ivar retention: how long ended runs are kept, see `aiki.retention`; empty means for ever.
    :ivar run_logs: 1: workers report what runs log; 0: they do not.
    :ivar database_url: SQLAlchemy URL, `mysql+pymysql://…`, `postgresql://…` or `sqlite:///…`.
    :ivar broker_url: see `aiki.broker.open_broker`.
    :ivar database_password_file, broker_password_file: files that hold the password in place of the URL, read for each new
        connection: so a password that is rotated is taken up.
    :ivar prefix: begins the name of every exchange and queue.
    :ivar namespace: the tenant all of this process's runs belong to.
    :ivar partitions: number of report queues; 0: as the installation has it on record. Another number than that is refused.
    :ivar worker_key, worker_key_file: for workers: the key of their namespace (or a file that holds it), as
        `aiki installation worker-key` prints it; empty: an orchestrator hands it out.
    :ivar queue_type: `classic` or `quorum`, for the durable RabbitMQ queues. Classic is as safe on one node; on a cluster
        choose quorum.
    :ivar max_payload: largest encoded argument list or result, in bytes.
    :ivar max_message: largest message that the broker takes, in bytes: RabbitMQ's `max_message_size`.
    :ivar compress_above: compress payloads larger than this many bytes; 0 is never.
    :ivar timeout: seconds that `enqueue` and other calls may take.
    :ivar lease: seconds without a heartbeat after which a worker is lost.
    :ivar max_crashes: how often executing a run may kill its process before the run is dead.
    :ivar history_steps, history_bytes: how long a workflow's history may become before the run must continue as new.
    :ivar batch_rate: runs a second that one orchestrator gets through in bulk operations.
    :ivar session_idle, session_lifetime: seconds without a request, and in all, after which who is signed in must sign in anew.
    :ivar trusted_proxies: addresses or networks, by commas, whose `X-Forwarded-*` headers the server believes.
    :ivar mask: keys, by commas, whose values only admins see; see `aiki.api.masking.Mask`.
    :ivar tls_cert, tls_key: files (PEM) with the server's own certificate and key: it then speaks https.
    :ivar database_ca, broker_ca: file with the authorities that the other side's certificate must come from; `system`: this
        machine's. `…_cert`, `…_key`: files with one's own certificate; `…_verify`: `no` looks at no certificate.
    """

    server_url: str = ""
    api_key: str = ""
    api_key_file: str = ""
    metrics_token: str = ""
    metrics_token_file: str = ""
    public_url: str = ""
    allowed_hosts: str = ""
    webhook_private: int = 0
    retention: str = ""
    run_logs: int = 1
    database_url: str = ""
    database_password_file: str = ""
    broker_url: str = ""
    broker_password_file: str = ""
    worker_key: str = ""
    worker_key_file: str = ""
    prefix: str = "aiki"
    namespace: str = DEFAULT_NAMESPACE
    partitions: int = 0
    queue_type: str = "classic"
    max_payload: int = 8 * 1024 * 1024
    max_message: int = MAX_MESSAGE
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

        The URLs are taken as a whole. Without any of them the embedded default is used: two SQLite files in `.aiki/` under the
        working directory. With one of them, what is not named stays empty, and `need` refuses whoever cannot do without it: a
        file that a process makes in its own directory is never what was meant.

        :raises ConfigurationError: an unknown setting, a value that is not of its type, or a file that cannot be read.
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
        if not any(name in values for name in URLS):
            values |= {"database_url": embedded_url("aiki.db"), "broker_url": embedded_url("broker.db")}
        values.update(_read_files(values))
        values.update(_tls(values))
        made = cls(**values)
        made._check()
        return made

    def need(self, *names: str, what: str) -> None:
        """See that these URLs (names of fields), which `what` needs, are set. Raises `ConfigurationError`: what to set."""
        missing = [name for name in names if not getattr(self, name)]
        if not missing:
            return
        there = " and ".join(_variable(name) for name in URLS if getattr(self, name))
        raise ConfigurationError(
            f"{what} needs {' and '.join(map(_variable, missing))}: set {'it' if len(missing) == 1 else 'them'} beside {there} "
            "(the embedded default of two SQLite files is used only where none of these variables is set)"
        )

    def __repr__(self) -> str:
        shown = {item.name: getattr(self, item.name) for item in fields(self) if getattr(self, item.name) != item.default}
        told = {name: "…" if name in SECRETS else hidden(value) for name, value in shown.items()}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    @property
    def payload_limit(self) -> int:
        """Bytes of the largest payload that can be sent: `max_payload`, or what a message has room for if that is less."""
        return min(self.max_payload, self.max_message - MESSAGE_ROOM)

    def _check(self) -> None:
        if not 0 <= self.partitions <= MAX_PARTITIONS:
            raise ConfigurationError(
                f"partitions={self.partitions}: it must be from 1 to {MAX_PARTITIONS}, or 0 for the number on record"
            )
        if self.queue_type not in ("classic", "quorum"):
            raise ConfigurationError(f"queue_type={self.queue_type!r}: it must be classic or quorum")
        # Written so that NaN is refused too.
        for name, value, least in (("timeout", self.timeout, 0.001), ("lease", self.lease, 5)):
            if not least <= value <= MAX_SECONDS:
                raise ConfigurationError(f"{name}={value}: it must be from {least} to {MAX_SECONDS} seconds")
        counts = [("max_crashes", self.max_crashes, 1), ("max_payload", self.max_payload, 1)]
        counts += [("max_message", self.max_message, 2 * MESSAGE_ROOM)]
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
        public_path(self.public_url)


def public_path(url: str) -> str:
    """The path of `AIKI_PUBLIC_URL` without a slash at its end: `/aiki`, or nothing.

    :raises ConfigurationError: the address is not one that a browser could be sent to.
    """
    if not url:
        return ""
    found = _PUBLIC.fullmatch(url)
    path = "" if found is None else found[1].rstrip("/")
    if found is None or any(part in (".", "..") for part in path.split("/")):
        raise ConfigurationError(
            f"public_url={hidden(url)!r}: it must be like https://aiki.example.com or https://example.com/aiki, the path of "
            "letters, digits, dots, hyphens, tildes and underscores"
        )
    return path


def _variable(name: str) -> str:
    return f"AIKI_{name.upper()}"


def _read_files(values: Mapping[str, Any]) -> dict[str, str]:
    """The secrets that files hold."""
    found = {}
    for name in SECRETS:
        path = values.get(f"{name}_file")
        if not path:
            continue
        if name in values:
            raise ConfigurationError(f"{_variable(name)} and {_variable(name)}_FILE are both set: give one of them")
        found[name] = read_secret(path, f"{_variable(name)}_FILE")
        if not found[name]:
            raise ConfigurationError(f"{_variable(name)}_FILE: the file {path} is empty")
    return found


def read_secret(path: str, setting: str) -> str:
    """The text of a file that holds a secret, without the line's end; `setting` is what names the file.

    :raises ConfigurationError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigurationError(f"{setting}: the file {path} cannot be read: {why}") from None


T = TypeVar("T")


def hidden(value: T) -> T | str:
    """A setting as it may be shown: the password of a URL, or of each of several, is left out."""
    return re.sub(r"(://[^:/@;]*):[^;]*@", r"\1:***@", value) if isinstance(value, str) else value


def _tls(values: Mapping[str, Any]) -> dict[str, str]:
    """The URLs of database and broker, with what the settings say of TLS."""
    names = ("ca", "cert", "key", "verify")
    if not any(f"{what}_{name}" in values for what in ("database", "broker") for name in names):
        return {}
    from aiki import tls  # only where it is set

    def given(what: str) -> list[str]:
        return [str(values.get(f"{what}_{name}", "yes" if name == "verify" else "")) for name in names]

    changed = {}
    if values.get("database_url"):
        changed["database_url"] = tls.database_options(values["database_url"], *given("database"))
    if values.get("broker_url"):
        changed["broker_url"] = tls.broker_options(values["broker_url"], *given("broker"))
    return changed


def embedded_url(file: str) -> str:
    """The URL of one of the embedded default's files."""
    return f"sqlite:///{Path(EMBEDDED_DIR).absolute() / file}"


def check_name(what: str, value: str) -> str:
    """`value` if it can name a queue, a namespace or a worker; else `ConfigurationError`."""
    if not 1 <= len(value) <= 64 or not all(c.isascii() and (c.isalnum() or c in "._-") for c in value):
        raise ConfigurationError(f"{what} {value!r}: use 1 to 64 letters, digits, dots, hyphens and underscores")
    return value
