"""Quantities, as Docker and Kubernetes spell them; and the merging of specs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwork.quantity import format_bytes, parse_bytes, parse_cpus
from cellwork.spec import ContainerSpec, from_header, merge, parse, to_header


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("512m", 512 << 20),
        ("512Mi", 512 << 20),
        ("512MB", 512 << 20),
        ("2g", 2 << 30),
        ("1.5k", 1536),
        ("7", 7),
        (7, 7),
    ],
)
def test_bytes(text, amount):
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "m", "-1m", "1 x", "12 potatoes", "1e9", 0, -1, True, None, [], "9" * 30, "1ii"])
def test_what_is_no_size_says_what_is(text):
    with pytest.raises(ValueError, match="a number of bytes"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "cpus"), [(2, 2.0), (0.5, 0.5), ("500m", 0.5), ("1.5", 1.5), ("1m", 0.001)])
def test_processors(text, cpus):
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", [0, -1, "0", "many", True, None, "1k", 10**9])
def test_what_is_no_number_of_processors_says_what_is(text):
    with pytest.raises(ValueError, match="a number of processors"):
        parse_cpus(text)


@given(st.integers(1, 2**50))
def test_sizes_are_shown_in_a_unit_that_reads_back_about_the_same(amount):
    assert parse_bytes(format_bytes(amount).replace(" ", "")) == pytest.approx(amount, rel=0.001, abs=1)


SPECS = st.builds(
    ContainerSpec,
    image=st.none() | st.sampled_from(["a", "b:1"]),
    memory=st.none() | st.integers(1, 2**40),
    cpus=st.none() | st.integers(1, 64).map(float),
    env=st.none() | st.dictionaries(st.sampled_from("ABC"), st.text(alphabet="xyz"), max_size=3),
    read_only=st.none() | st.booleans(),
    tmpfs=st.none() | st.dictionaries(st.just("/tmp"), st.integers(1, 99)),
)


@given(SPECS)
def test_a_header_gives_back_the_same_spec(spec):
    assert from_header("t", to_header(spec)) == spec


@given(SPECS, SPECS, SPECS)
def test_merging_takes_what_is_said_last_however_it_is_grouped(a, b, c):
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, ContainerSpec()) == a
    for field in ("image", "memory", "cpus", "read_only", "tmpfs"):
        said = getattr(b, field)
        assert getattr(merge(a, b), field) == (getattr(a, field) if said is None else said)


def test_environments_are_merged_name_by_name():
    merged = merge(parse("t", {"env": {"A": "1", "B": "1"}}), parse("t", {"env": {"B": "2"}}))
    assert merged.env == {"A": "1", "B": "2"}
