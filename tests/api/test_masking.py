"""What is masked, and what is not."""

from __future__ import annotations

import json

import pytest

from aiki.api.masking import MASK, Mask, restored
from aiki.settings import DEFAULT_MASK

MASKING = Mask(DEFAULT_MASK.split(","))


@pytest.mark.parametrize(
    "key",
    [
        *("password", "PASSWORD", "user_password", "newPassword2", "db-passwd", "client_secret", "accessToken", "token"),
        *(
            "Authorization",
            "api_key",
            "apiKey",
            "x-api-key",
            "APIKey",
            "card",
            "card_number",
            "cardNumber",
            "creditCard",
            "cvv",
        ),
        *("aws_secret_access_key", "private_key", "Set-Cookie", "credentials", "IBAN"),
    ],
)
def test_secret_keys(key: str) -> None:
    assert MASKING.is_secret(key)


@pytest.mark.parametrize("key", ["order", "discard", "wildcard", "cardinality", "company", "author", "key", "pandas", "", "é"])
def test_other_keys(key: str) -> None:
    assert not MASKING.is_secret(key)


def test_values_are_masked_wherever_they_are() -> None:
    plain = [
        [{"user": "ann", "password": "p"}],
        {
            "card": {"number": 4111, "name": "ann"},
            "token": None,
            "has_password": True,
            "t": {"$aiki": "dataclass", "t": "m:C", "v": {"secret": 1.5, "id": 3}},
            "d": {"$aiki": "dict", "v": [["api_key", "k"], ["x", 1], [{"a": 1}, 2]]},
        },
    ]
    found = MASKING.apply(plain)
    assert found.hidden == 4
    assert found.value == [
        [{"user": "ann", "password": MASK}],
        {
            "card": MASK,
            "token": None,
            "has_password": True,
            "t": {"$aiki": "dataclass", "t": "m:C", "v": {"secret": MASK, "id": 3}},
            "d": {"$aiki": "dict", "v": [["api_key", MASK], ["x", 1], [{"a": 1}, 2]]},
        },
    ]
    assert plain[0][0]["password"] == "p", "the original stays"  # type: ignore[index]


def test_a_text_that_is_cut_off_is_masked_too() -> None:
    data = {
        "a": 1,
        "card": {"number": '41"11', "x": [1, 2]},
        "token": 'q"}',
        "cvv": 123,
        "s": ['x", "cvv": 9', ":"],
        "z": "end",
    }
    text = json.dumps(data)
    for end in range(len(text) + 1):
        shown = MASKING.apply_to_text(text[:end]).value
        assert not any(secret in shown for secret in ("41", "q", "123")), shown
    whole = MASKING.apply_to_text(text)
    assert json.loads(whole.value) == {"a": 1, "card": MASK, "token": MASK, "cvv": MASK, "s": data["s"], "z": "end"}
    assert whole.hidden == 3
    for cut, then in (
        ('{"password": "abc', f'{{"password": "{MASK}"'),
        ('{"password": [1, {"x"', f'{{"password": "{MASK}"'),
        ('{"pass\\u0077ord":"x","n":1e400}', f'{{"pass\\u0077ord":"{MASK}","n":1e400}}'),
        ('{"token":null,"password":true,"n":1.10}', '{"token":null,"password":true,"n":1.10}'),
    ):
        assert MASKING.apply_to_text(cut).value == then


def test_what_is_edited_around_a_mask_keeps_what_was_there() -> None:
    original = [["o-1", {"token": "t"}], {"card": {"number": 1}, "n": 1}]
    edited = [["o-2", {"token": MASK}], {"card": MASK, "n": 2, "new": True}]
    assert restored(edited, original) == [["o-2", {"token": "t"}], {"card": {"number": 1}, "n": 2, "new": True}]


def test_patterns_of_ones_own() -> None:
    mine = Mask(["patient", "*code*", " "])
    assert mine.is_secret("patient_name")
    assert mine.is_secret("postcode")
    assert not mine.is_secret("password")
