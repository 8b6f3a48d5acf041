"""Gives workers the key of their namespace, sealed to the public key of their hello, and again whenever it changes.

A worker whose key is right gets every new one. A worker without a key gets one if the installation hands keys out; a worker
that has its key from a setting (`AIKI_WORKER_KEY`) needs no such trust.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable

from aiki import messages as m
from aiki.errors import DecodeError
from aiki.messages import Heartbeat
from aiki.orchestrator.outbound import Outbound
from aiki.sealing import seal
from aiki.signing import REQUIRE, Installation, key_id, key_state

logger = logging.getLogger("aiki.orchestrator")


class Introducing:
    """Of one orchestrator.

    :param installation: gives the installation's record.
    """

    def __init__(self, installation: Callable[[], Installation], clock: Callable[[], int]) -> None:
        self._installation = installation
        self._clock = clock
        self._told: set[str] = set()

    def greet(self, beat: Heartbeat, proven: bool, out: Outbound) -> None:
        """A heartbeat of a worker has come: see that it has the newest key. `proven`: the heartbeat was signed correctly."""
        installation = self._installation()
        newest = installation.newest_key(beat.namespace)
        required = installation.signatures == REQUIRE
        if beat.fields.get("kid") == key_state(newest, required):
            return
        public = beat.fields.get("pk")
        if beat.kind == m.BEAT and proven and "kid" in beat.fields:
            out.control(beat.namespace, m.RESEND_HELLO)
        if beat.kind != m.HELLO or not isinstance(public, str):
            return
        if not (installation.hands_out or proven):
            if beat.worker not in self._told and len(self._told) < 1000:
                self._told.add(beat.worker)
                logger.error(
                    "worker %s of namespace %s has no key, or a wrong one, and this installation hands none out: give it "
                    "AIKI_WORKER_KEY, which `aiki installation worker-key` prints",
                    str(beat.fields.get("name", beat.worker))[:100],
                    beat.namespace,
                )
            return
        self._hand_out(installation, beat, public, newest, out)

    def _hand_out(self, installation: Installation, beat: Heartbeat, public: str, newest: bytes, out: Outbound) -> None:
        keys = installation.keys(beat.namespace, self._clock())
        every = dict.fromkeys((newest, keys.signing, *keys.others))
        told = {
            "in": keys.installation,
            "keys": [key.hex() for key in every],
            "required": int(installation.signatures == REQUIRE),
        }
        try:
            sealed = seal(json.dumps(told).encode("ascii"), public)
        except DecodeError as error:
            logger.error("worker %s is told no key: %s", beat.worker, error)
            return
        # By this a worker that has a key knows that the new one comes from whoever knew the old one.
        known = str(beat.fields.get("kid", "")).partition(":")[0]
        proofs = [hmac.digest(key, sealed.encode("ascii"), "sha256").hex() for key in every if key_id(key) == known]
        out.control(beat.namespace, m.KEYS, worker=beat.worker, sealed=sealed, proof=proofs[0] if proofs else "")
