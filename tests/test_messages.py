"""Messages: what is encoded is read back; whatever else arrives is one error, and nothing worse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki import messages as m
from aiki.errors import MessageError
from aiki.messages import Control, Dispatch, DispatchList, Heartbeat, Held, Report, ReportList, RunKey

_ids = st.uuids().map(lambda value: value.hex)
_epochs = st.integers(0, 2**31 - 1)
_places = st.text("abcXYZ019._-", min_size=1, max_size=64)
_names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=30)
_ascii = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=16)
_executors = st.builds("{}/{}.{}".format, _ids, st.integers(0, 99), st.integers(0, 9999))
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_bodies = st.dictionaries(st.text(max_size=4).map("a field of tomorrow: {}".format), _json, max_size=3)
_dispatches = st.builds(
    *(Dispatch, _ids, _epochs, _names, _names, st.integers(1, 2**31 - 1), st.integers(0, 63), _ascii, _ascii, _bodies)
)
_keys = st.builds(RunKey, _ids, _epochs)
_held = st.builds(Held, _ids, _epochs, _executors, st.integers(0, 2**40))
_kinds = st.sampled_from([m.STARTED, m.COMPLETED, m.INQUIRE, "a kind of tomorrow"])
_reports = st.builds(Report, _kinds, _ids, _epochs, _bodies)
_markers = st.none() | st.integers(0, 2**63 - 1)
_all = st.one_of(
    st.builds(DispatchList, _places, _places, st.lists(_dispatches, max_size=3), st.booleans(), _markers),
    st.builds(ReportList, _places, _ids, _executors, st.lists(_reports, max_size=3)),
    st.builds(Control, _places, _ascii, st.lists(_keys, max_size=3), _bodies),
    st.builds(Heartbeat, _places, _ascii, _ids, st.lists(_held, max_size=3), _bodies),
)
READERS = (DispatchList, ReportList, Control, Heartbeat)


@given(_all)
def test_what_is_encoded_is_read_back(message: Any) -> None:
    body = message.encode()
    assert body.isascii()
    assert type(message).decode(body) == message
    for other in READERS:
        if other is not type(message):
            with pytest.raises(MessageError, match="was expected"):
                other.decode(body)


@given(st.binary(max_size=40) | _json.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_one_error(body: bytes) -> None:
    for reader in READERS:
        with pytest.raises(MessageError):
            reader.decode(body)


@given(
    st.sampled_from([m.DISPATCH, m.REPORTS, m.CONTROL, m.HEARTBEAT]),
    st.dictionaries(st.sampled_from(["ns", "q", "w", "x", "again", "marker"]), _json),
    _json,
)
def test_an_envelope_with_anything_in_it_is_read_or_refused(kind: str, header: Any, content: Any) -> None:
    body = json.dumps([m.VERSION, kind, header, content]).encode()
    for reader in READERS:
        try:
            assert isinstance(reader.decode(body), reader)
        except MessageError:
            pass


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("body", [b"", b"[", b"[" * 100_000, b"null", b"[1]", b'[99,"dispatch",{},[]]', b"\xff\xfe"])
def test_unreadable(reader: Any, body: bytes) -> None:
    with pytest.raises(MessageError):
        reader.decode(body)


def test_another_version_says_who_is_to_be_upgraded() -> None:
    with pytest.raises(MessageError, match="upgrade the receiver"):
        DispatchList.decode(b'[2,"dispatch",{"ns":"a","q":"b"},[]]')


def test_a_digest_does_not_depend_on_the_order() -> None:
    one, two = ["a", "1", "task"], ["b", "1", "task"]
    assert m.definitions_digest([one, two]) == m.definitions_digest([two, one]) != m.definitions_digest([one])
