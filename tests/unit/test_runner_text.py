"""The runner's JSON against the standard library's."""

import importlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

text = importlib.import_module("cellwork_worker.runner.text")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_it_writes_and_reads_as_the_json_package_does(value):
    written = text.dumps(value)
    assert written == json.dumps(value)
    assert text.loads(written) == value
    assert text.loads(json.dumps(value, ensure_ascii=False)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"x"])
def test_what_json_cannot_carry_is_refused(value):
    with pytest.raises((ValueError, TypeError)):
        text.dumps([value])


@pytest.mark.parametrize("broken", ["", "{", '{"a": }', '"open'])
def test_what_is_no_json_is_refused(broken):
    with pytest.raises((ValueError, StopIteration)):
        text.loads(broken)
