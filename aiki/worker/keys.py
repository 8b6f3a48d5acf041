"""The keys by which a worker's processes know messages of their installation and sign their own.

They come from the setting `AIKI_WORKER_KEY`, or from an orchestrator, which tells the link; the children find them in the
shared memory. Until there are any, nothing is signed and everything is believed: the worker takes no run before it has the
answer to its hello, which brings them, unless the orchestrators are of a release that knows no keys.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiki.errors import DecodeError
from aiki.signing import SECRET_BYTES, Keys, key_state, read_worker_key
from aiki.worker.slots import Shared

if TYPE_CHECKING:
    from aiki.sealing import Opener

_log = logging.getLogger(__name__)


class WorkerRing:
    """See `aiki.signing.Ring`.

    :param given: the text of `AIKI_WORKER_KEY`, or empty; raises `ConfigurationError` if it cannot be read.
    """

    def __init__(self, shared: Shared, namespace: str, given: str = "") -> None:
        self._shared = shared
        self._namespace = namespace
        self._given = read_worker_key(given) if given else None
        self._keys = self._given
        self._required = self._given is not None
        self._seen = 0

    @property
    def required(self) -> bool:
        """See `Ring`."""
        self.refresh()
        return self._required

    @property
    def state(self) -> str:
        """A digest of the worker's key, which does not reveal it, and whether the worker requires signatures; `Introducing`
        compares it."""
        self.refresh()
        return "" if self._keys is None else key_state(self._keys.signing, self._required)

    def keys(self, namespace: str) -> Keys | None:
        """See `Ring`."""
        self.refresh()
        return self._keys if namespace == self._namespace else None

    def refresh(self) -> bool:
        """See `Ring`: take over what the link has written."""
        if self._shared.identity_version == self._seen:
            return False
        found = self._shared.identity
        if found is None:
            return False
        self._seen, data = found
        told = json.loads(data)
        self._keys = _read(told)
        self._required = bool(told["required"]) or self._given is not None
        return True

    def take(self, control: Mapping[str, Any], proven: bool, opener: Opener) -> bool:
        """The link has received keys; whether they were accepted. `proven`: the message was signed with a key that is known
        here."""
        sealed, proof = str(control.get("sealed", "")), str(control.get("proof", ""))
        try:
            data = opener.open(sealed)
            keys = _read(json.loads(data))
        except (DecodeError, ValueError, TypeError, KeyError) as error:
            _log.error("keys that cannot be read are passed over: %s: %s", type(error).__name__, error)
            return False
        known = self.keys(self._namespace)
        if known is not None and not proven:
            expected = hmac.digest(known.signing, sealed.encode("ascii"), "sha256").hex()
            if known.installation != keys.installation or not hmac.compare_digest(expected, proof):
                _log.error(
                    "keys of installation %s are not taken: this worker has those of installation %s, and nothing says that "
                    "they come from there. If the worker is to change its installation, start it anew",
                    keys.installation,
                    known.installation,
                )
                return False
        if data != self._shared.identity_bytes:
            self._shared.identify(data)
            _log.info("has the key of namespace %s of installation %s", self._namespace, keys.installation)
        return True


def _read(told: Any) -> Keys:
    keys = tuple(bytes.fromhex(key) for key in told["keys"])
    if not 1 <= len(keys) <= 3 or any(len(key) != SECRET_BYTES for key in keys) or len(bytes.fromhex(told["in"])) != 16:
        raise ValueError("not keys")
    int(told["required"])
    return Keys(told["in"], keys[0], keys[1:])
