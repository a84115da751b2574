"""Outcomes: hostile JSON in, plain values or a refusal out."""

import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import dumps, register_type

from cellwork import outcome
from cellwork.outcome import Failure, Invalid, InvalidDocument, RetryRequest, Success, TooLarge

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text().filter(lambda k: k != "__type__"), inner),
    max_leaves=12,
)


@given(JSON)
def test_whatever_celery_writes_is_read_back_the_same(value):
    assert outcome.loads(dumps(value)) == value


@pytest.mark.parametrize(
    "value", [datetime(2026, 1, 2, 3, 4), date(2026, 1, 2), time(1, 2), Decimal("1.0"), uuid.UUID(int=5), b"\xff", b"a"]
)
def test_the_extra_types_keep_their_type(value):
    assert type(outcome.loads(dumps(value))) is type(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("NaN", "NaN"),
        ("[1, -Infinity]", "Infinity"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 101 + "]" * 101, "deeper"),
        ("[" * 100_000, "deeper"),
        ("9" * 10_000, "not JSON"),
        (b'"\xff"', "not JSON"),
        ('{"__type__": "function", "__value__": "os.system"}', "unknown __type__"),
        ('{"__type__": ["datetime"], "__value__": 1}', "unknown __type__"),
        ('{"__type__": "datetime", "__value__": "yesterday"}', "not JSON"),
        ('{"__type__": "decimal", "__value__": 1}', "string"),
        ('{"__type__": "decimal", "__value__": "one"}', "not JSON"),
        ('{"__type__": "uuid", "__value__": {}}', "not JSON"),
        ('{"__type__": "base64", "__value__": "%"}', "not JSON"),
    ],
)
def test_what_is_not_in_the_protocol_is_refused_with_a_reason(text, why):
    with pytest.raises(InvalidDocument, match=why):
        outcome.loads(text)


def test_types_that_the_application_registered_are_not_revived():
    class Thing:
        pass

    register_type(Thing, "outcome-test-thing", lambda thing: 1, lambda value: pytest.fail("revived"))
    with pytest.raises(InvalidDocument, match="unknown __type__"):
        outcome.loads('{"__type__": "outcome-test-thing", "__value__": 1}')


def test_every_status_is_parsed():
    assert outcome.parse({"status": "success", "value": [1]}) == Success([1])
    assert outcome.parse({"status": "error", "type": "builtins.ValueError"}) == Failure("builtins.ValueError")
    retry = outcome.parse({"status": "retry", "options": {"countdown": 3}, "error": {"status": "error", "type": "a.B"}})
    assert isinstance(retry, RetryRequest)
    assert retry.options.countdown == 3
    assert retry.error == Failure("a.B")
    assert outcome.parse({"status": "invalid-result", "detail": "x"}) == Invalid("x")
    assert outcome.parse({"status": "result-too-large", "size": 2, "limit": 1}) == TooLarge(2, 1)


@pytest.mark.parametrize("data", [None, [], {}, {"status": "ok"}, {"status": "error"}, {"status": "error", "type": 1}])
def test_what_is_no_outcome_is_refused(data):
    with pytest.raises(InvalidDocument, match="not an outcome"):
        outcome.parse(data)
