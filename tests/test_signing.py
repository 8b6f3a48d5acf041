"""Signatures: what is signed is believed by those who have the key, and anything else is not."""

from __future__ import annotations

import secrets
import time

import pytest

from aiki import messages as m
from aiki import signing
from aiki.errors import ConfigurationError, DecodeError
from aiki.messages import Control, DispatchList, Heartbeat, Report, ReportList
from aiki.sealing import Opener, seal
from aiki.signing import Installation, Keys, check, sign

RUN = "0" * 31 + "1"
W = "f" * 32
MESSAGES = [
    DispatchList("ns", "default", [], marker=1).encode(),
    ReportList("ns", W, f"{W}/0.1", [Report(m.COMPLETED, RUN, 1, {"ms": 1})]).encode(),
    Control("ns", m.CANCEL, [], {}).encode(),
    Heartbeat("ns", m.BEAT, W, [], {}).encode(),
]


class Ring:
    """Keys from an installation, for tests."""

    def __init__(self, installation: Installation, *, required: bool = True, now: int = 0) -> None:
        self.installation = installation
        self.required = required
        self.now = now
        self.refreshed: Installation | None = None

    def keys(self, namespace: str) -> Keys | None:
        return self.installation.keys(namespace, self.now)

    def refresh(self) -> bool:
        if self.refreshed is None:
            return False
        self.installation, self.refreshed = self.refreshed, None
        return True


def make(secret: bytes | None = None, **more: object) -> Installation:
    return Installation("a" * 32, 0, 4, 4, secret or secrets.token_bytes(32), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("body", MESSAGES)
def test_a_signed_message_is_read_as_before_and_believed(body: bytes) -> None:
    ring = Ring(make())
    signed = sign(body, ring)
    assert signed != body
    assert sign(signed, ring) == signed
    assert check(signed, ring) == ("ns", "")
    assert check(body, ring) == ("", signing.UNSIGNED)
    assert check(body, Ring(make(), required=False)) == ("", "")
    decode = {b"di": DispatchList, b"re": ReportList, b"co": Control, b"he": Heartbeat}[body[4:6]].decode  # type: ignore[attr-defined]
    assert decode(signed) == decode(body)


@pytest.mark.parametrize("body", MESSAGES)
def test_any_change_is_noticed(body: bytes) -> None:
    ring = Ring(make())
    signed = sign(body, ring)
    for at in range(len(signed)):
        changed = signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]
        assert check(changed, ring).refused, changed
    assert check(signed + b" ", ring).refused
    assert check(signed[:-1], ring).refused


def test_other_keys_do_not_count() -> None:
    ring = Ring(make())
    body = MESSAGES[1]
    assert "none of this installation's" in check(sign(body, Ring(make())), ring).refused
    other = Ring(Installation("b" * 32, 0, 4, 4, ring.installation.secret))
    assert f"of installation {'b' * 32}" in check(sign(body, other), ring).refused
    blue = ReportList("blue", W, f"{W}/0.1", []).encode()
    swapped = sign(blue, ring).replace(b'"blue"', b'"ns"')
    assert check(swapped, ring).refused


def test_the_first_namespace_is_the_one_that_counts() -> None:
    """JSON takes the last of two equal keys: so whoever decodes compares what it finds with what was signed for."""
    ring = Ring(make())
    twice = ReportList("blue", W, f"{W}/0.1", []).encode().replace(b'"w":', b'"ns":"green","w":')
    signed = sign(twice, ring)
    assert check(signed, ring).namespace == "blue"
    assert ReportList.decode(signed).namespace == "green"


def test_while_a_secret_changes_both_count_and_the_new_one_signs_from_its_time_on() -> None:
    old, new = secrets.token_bytes(32), secrets.token_bytes(32)
    before, during, after = make(old), make(old, other=new, switch_at=100), make(new)
    body = MESSAGES[0]
    assert sign(body, Ring(during, now=99)) == sign(body, Ring(before))
    assert sign(body, Ring(during, now=100)) == sign(body, Ring(after))
    for ring in (Ring(during, now=99), Ring(during, now=100)):
        assert not check(sign(body, Ring(before)), ring).refused
        assert not check(sign(body, Ring(after)), ring).refused
    assert check(sign(body, Ring(before)), Ring(after)).refused
    # A process that has not heard of the new one looks before it refuses.
    late = Ring(before)
    late.refreshed = during
    assert not check(sign(body, Ring(after)), late).refused
    assert during.newest_key("ns") == after.keys("ns", 0).signing


def test_a_workers_key_as_a_setting() -> None:
    installation = make()
    text = signing.worker_key(installation.id, installation.newest_key("ns"))
    assert signing.read_worker_key(f" {text}\n") == installation.keys("ns", 0)
    for wrong in ("", "x", text[:-1], text.replace(".", ""), "zz" + text[2:]):
        with pytest.raises(ConfigurationError, match="aiki installation worker-key"):
            signing.read_worker_key(wrong)


def test_a_sealed_secret_is_for_one() -> None:
    opener = Opener()
    sealed = seal(b"secret", opener.public)
    assert opener.open(sealed) == b"secret"
    with pytest.raises(DecodeError):
        Opener().open(sealed)
    for wrong in ("", "AAAA", sealed[:-8], "é"):
        with pytest.raises(DecodeError):
            opener.open(wrong)
    for public in ("", "AAAA", "!"):
        with pytest.raises(DecodeError):
            seal(b"secret", public)


def test_it_costs_little() -> None:
    ring = Ring(make())
    body = ReportList("ns", W, f"{W}/0.1", [Report(m.COMPLETED, RUN, 1, {"r": "x" * 500})]).encode()
    took = []
    for _ in range(5):
        begun = time.process_time()
        for _ in range(2000):
            check(sign(body, ring), ring)
        took.append((time.process_time() - begun) / 2000)
    assert min(took) < 60e-6, f"{min(took) * 1e6:.1f} µs to sign and check"
