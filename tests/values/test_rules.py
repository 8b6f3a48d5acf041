"""The rules for values, one by one: what is kept, what is refused with which way out, and what a message cannot do."""

from __future__ import annotations

import base64
import collections
import datetime as dt
import json
import sys
import threading
import types
import zlib
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import attr
import pytest

from aiki import Aiki, ConfigurationError, codec, hints
from aiki.classes import CLASSES, Classes
from aiki.codec import JSON_ZLIB, MAX_INFLATED, Payload, decode, encode
from aiki.errors import DecodeError, EncodeError, ShapeMismatch
from tests.values import kinds
from tests.values.kinds import Bolt, Customer, Doubling, Money, Opaque, Pair, Point, Right, Taxed, Text, Undeclared

Loose = collections.namedtuple("Loose", "a b")
app = Aiki("rules")
for declared in (Taxed, Point, Right, Bolt, Customer, Doubling):
    app.register_type(declared)
app.register_type(Money, lambda money: [money.amount, money.unit], lambda data: Money(*data))


def there_and_back(value: Any) -> Any:
    return decode(encode(value))


def refusal(value: Any) -> str:
    with pytest.raises(EncodeError) as caught:
        encode(value, what="arguments of shop.charge")
    return str(caught.value)


# ---------------------------------------------------------------- kept
def test_a_dataclass_is_not_made_twice() -> None:
    back = there_and_back(Taxed(100, 7))
    assert (back.net, back.gross) == ((100,), [100, 7])


def test_what_an_object_holds_beside_its_fields_is_kept() -> None:
    app.register_type(kinds.Box)
    assert there_and_back(kinds.Box(1)).aside == "not a field"


def test_flags_zones_and_folds_are_kept() -> None:
    assert there_and_back(Right.READ | Right.OWN) is Right.READ | Right.OWN
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    for fold in (0, 1):
        back = there_and_back(dt.datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold))
        assert (back.tzinfo, back.fold, back.utcoffset()) == (berlin, fold, dt.timedelta(hours=2 - fold))
        assert (back + dt.timedelta(days=100)).utcoffset() == dt.timedelta(hours=1), "it is a zone, not an offset"


def test_a_zone_that_is_not_known_here_leaves_the_instant() -> None:
    text = encode(dt.datetime(2026, 6, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))).text
    back = decode(Payload("json", text.replace("Europe/Berlin", "Europe/Nowhere")))
    assert back == dt.datetime(2026, 6, 1, 10, tzinfo=dt.UTC)


def test_subclasses_are_carried_as_their_base_where_they_equal_it() -> None:
    for value, kind in (
        (Text("a"), str),
        (kinds.Mine(a=1), dict),
        (collections.Counter("aab"), collections.Counter),
        (collections.OrderedDict(b=1, a=2), collections.OrderedDict),
        (collections.defaultdict(list, a=[1]), collections.defaultdict),
        (Loose(1, 2), tuple),
    ):
        back = there_and_back(value)
        assert (back, type(back)) == (value, kind)
    assert there_and_back(collections.defaultdict(list))["x"] == []


def test_a_named_tuple_that_a_signature_names_is_restored() -> None:
    known = Classes()

    def fn(pair: Pair) -> None: ...

    known.add(fn)
    assert type(decode(encode(Pair(1), known=known), known=known)) is Pair


def test_pydantic_and_attrs_ask_their_own_validators() -> None:
    customer = Customer(name="Ada", otherName=4)
    back = there_and_back(customer)
    assert (back, back.model_fields_set) == (customer, {"name", "alias"})
    assert there_and_back(Bolt(4)) == Bolt(4)
    damaged = encode(Bolt(4)).text.replace("4", '"4"')
    with pytest.raises(ShapeMismatch, match="Bolt"):
        decode(Payload("json", damaged))
    damaged = encode(customer).text.replace('"Ada"', "[1]")
    with pytest.raises(ShapeMismatch, match="valid string"):
        decode(Payload("json", damaged))


# ---------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1, {"a": Opaque()}], r"at \$\[1\]\.a: .*Opaque cannot be carried.*app\.register_type\(Opaque, encode, decode\)"),
        (
            Undeclared.A,
            r"at \$: class tests\.values\.kinds:Undeclared occurs in no definition.*app\.register_type\(Undeclared\)",
        ),
        (Point(1, Opaque()), r"at \$\.y: "),
        (Doubling(amount=1), r"the validators of Doubling make something else of it"),
        (kinds.Strict("x"), "would come back as a str, which is not equal to it"),
    ],
    ids=["opaque", "undeclared", "inside", "validator", "strict"],
)
def test_what_would_not_come_back_is_refused_with_its_place_and_a_way_out(value: Any, says: str) -> None:
    import re

    assert re.search(says, refusal(value)), refusal(value)


def test_whatever_users_code_raises_is_a_refusal() -> None:
    @dataclass
    class Bad:
        a: int = 1

        def __getattribute__(self, name: str) -> Any:
            if name == "a":
                raise RuntimeError("no")
            return object.__getattribute__(self, name)

    Bad.__qualname__ = "Bad"
    app.register_type(Bad)
    assert "RuntimeError: no" in refusal(Bad())


def test_a_registered_type_is_tried_when_it_is_encoded() -> None:
    class Half:
        def __init__(self, a: int) -> None:
            self.a = a

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Half) and other.a == self.a

        __hash__ = None  # type: ignore[assignment]

    Half.__qualname__ = "Half"
    app.register_type(Half, lambda half: half.a // 2, lambda data: Half(data * 2))
    assert there_and_back(Half(4)) == Half(4)
    assert "does not give an equal one back" in refusal(Half(5))
    for wrong in (
        lambda: app.register_type(Opaque),
        lambda: app.register_type(int, str, int),
        lambda: app.register_type(Opaque, str),
    ):
        with pytest.raises(ConfigurationError, match="register_type"):
            wrong()


# ---------------------------------------------------------------- what a message cannot do
class _Trap(types.ModuleType):
    touched: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        self.touched.append(name)
        raise AttributeError(name)


@pytest.fixture
def trap() -> Iterator[_Trap]:
    made = _Trap("trap_module")
    sys.modules["trap_module"] = made
    yield made
    del sys.modules["trap_module"]


@dataclass
class Loaded:
    """Loaded, and named by nothing."""

    made: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        raise AssertionError("constructed by a message")


@pytest.mark.parametrize("tag", ["dataclass", "enum", "flag", "attrs", "model", "custom", "tuple"])
@pytest.mark.parametrize(
    "name",
    [
        "trap_module:lazy.client",
        "concurrent.futures:ProcessPoolExecutor",
        "tests.values.test_rules:Loaded",
        "subprocess:Popen",
        "",
    ],
)
def test_a_message_makes_nobody_look_import_or_construct(tag: str, name: str, trap: _Trap) -> None:
    before = set(sys.modules)
    plain = {"$aiki": tag, "t": name, "v": {} if tag != "tuple" else [], "n": []}
    with pytest.raises(DecodeError):
        decode(Payload("json", json.dumps(plain)))
    assert trap.touched == []
    assert set(sys.modules) == before


def test_what_a_message_gives_beside_the_fields_shadows_nothing() -> None:
    app.register_type(kinds.Derived)
    plain = json.loads(encode(kinds.Derived(1)).text)
    for name in ("__class__", "doubled", "__dict__", "__eq__"):
        with pytest.raises(ShapeMismatch):
            decode(Payload("json", json.dumps({**plain, "x": {name: 1}})))


def test_whatever_a_constructor_raises_is_a_decode_error() -> None:
    class Bomb:
        pass

    Bomb.__qualname__ = "Bomb"
    armed: list[BaseException] = []

    def undo(_: Any) -> Bomb:
        if armed:
            raise armed[-1]
        return Bomb()

    app.register_type(Bomb, lambda _: 1, undo)
    payload = encode(Bomb())
    for error in (RuntimeError("no"), SystemExit(3), GeneratorExit(), MemoryError()):
        armed.append(error)
        with pytest.raises(DecodeError, match=type(error).__name__):
            decode(payload)
    armed.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        decode(payload)


def test_inflating_is_bounded() -> None:
    packed = base64.b64encode(zlib.compress(b"[" + b"0," * (MAX_INFLATED // 2) + b"0]", 9)).decode()
    assert len(packed) < 100_000
    with pytest.raises(DecodeError, match="would inflate to more than"):
        decode(Payload(JSON_ZLIB, packed))
    text = "a" * 100_000
    assert decode(encode(text, compress_above=10)) == text


def test_large_values_are_not_compressed_beyond_what_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_INFLATED", 1000)
    assert encode("a" * 2000, compress_above=10).encoding == "json"
    assert encode("a" * 900, compress_above=10).encoding == JSON_ZLIB


def test_a_tag_may_be_written_with_escapes() -> None:
    for text in (r'{"\u0024aiki":"int","v":"0x5"}', r'{"$aik\u0069":"int","v":"0x5"}', r'{"$\u0061iki":"int","v":"0x5"}'):
        assert decode(Payload("json", text)) == 5


def test_classes_are_declared_by_what_occurs_in_signatures() -> None:
    known = Classes()

    def fn(box: kinds.Box[kinds.Slotted] | None, *more: list[kinds.Derived], default: Any = kinds.Colour.RED) -> kinds.Shelf:
        raise NotImplementedError

    known.add(fn)
    for cls in (kinds.Box, kinds.Slotted, kinds.Derived, kinds.Colour, kinds.Shelf):
        found = known.of(cls)
        assert found is not None, cls
        assert known.named(found.name) is found
    assert known.of(Undeclared) is None
    assert CLASSES.of(Undeclared) is None


def test_an_attrs_class_that_keeps_its_hash_makes_it_anew() -> None:
    @attr.s(auto_attribs=True, frozen=True, cache_hash=True)
    class Cached:
        a: str

    Cached.__qualname__ = "Cached"
    app.register_type(Cached)
    value = Cached("x")
    assert hash(value) == hash(there_and_back(value))
    assert "hash" not in encode(value).text


def test_a_pydantic_dataclass_and_a_generic_model_are_carried() -> None:
    assert there_and_back(kinds.Checked(3)) == kinds.Checked(3)
    assert there_and_back(kinds.Page[int](items=[1])) == kinds.Page[int](items=[1])
    assert there_and_back(kinds.Listed([1, 2])) == kinds.Listed([1, 2])
    assert there_and_back(kinds.Sites(["https://a.example/"])) == kinds.Sites(["https://a.example/"])


app.register_type(kinds.Checked)
app.register_type(kinds.Listed)
app.register_type(kinds.Sites)
app.register_type(kinds.Page[int])


def test_a_thread_that_asks_while_another_looks_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two first requests of a service at once."""
    known, looking, go_on = Classes(), threading.Event(), threading.Event()
    of_function = hints.of_function

    def slowly(fn: Any) -> dict[str, Any]:
        looking.set()
        assert go_on.wait(20)
        return of_function(fn)

    def fn(point: Point) -> None: ...

    monkeypatch.setattr(hints, "of_function", slowly)
    known.add(fn)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(known.of(Point))) for _ in range(2)]
    threads[0].start()
    assert looking.wait(20)
    threads[1].start()
    threads[1].join(0.05)  # without the lock it would have its answer by now
    go_on.set()
    for thread in threads:
        thread.join()
    assert [item.cls for item in found] == [Point, Point]
