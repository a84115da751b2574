"""Merging of what is said in several places, whatever is said."""

import json

from hypothesis import given
from hypothesis import strategies as st

from cellwork import spec as specs
from cellwork.spec import ContainerSpec

NAMES = st.sampled_from(["A", "B", "C"])
# A NUL ends a C string: neither a variable nor a label can hold one, and parsing refuses it.
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
SPECS = st.builds(
    ContainerSpec,
    image=st.none() | st.sampled_from(["python:3.12", "shop/a@sha256:" + "0" * 64]),
    cpus=st.none() | st.integers(1, 64).map(float),
    memory=st.none() | st.integers(6 << 20, 1 << 40),
    pids=st.none() | st.integers(1, 4096),
    network=st.none() | st.sampled_from(["none", "bridge"]),
    read_only=st.none() | st.booleans(),
    warm=st.none() | st.booleans(),
    env=st.none() | st.dictionaries(NAMES, WORDS),
    labels=st.none() | st.dictionaries(NAMES, WORDS),
    tmpfs=st.none() | st.dictionaries(st.sampled_from(["/tmp", "/var/x"]), st.integers(1 << 20, 1 << 30)),
    volumes=st.none() | st.just(("data:/data",)),
    ulimits=st.none() | st.dictionaries(st.just("nofile"), st.tuples(st.integers(1, 9), st.integers(9, 99))),
)
EMPTY = ContainerSpec()


@given(SPECS)
def test_nothing_said_changes_nothing(spec):
    assert specs.merge(spec, EMPTY) == spec
    assert specs.merge(EMPTY, spec) == spec
    assert specs.merge(spec, spec) == spec


@given(SPECS, SPECS, SPECS)
def test_it_does_not_matter_which_two_are_merged_first(a, b, c):
    assert specs.merge(specs.merge(a, b), c) == specs.merge(a, specs.merge(b, c))


@given(SPECS, SPECS)
def test_what_the_later_one_says_holds_and_the_rest_stays(base, over):
    merged = specs.merge(base, over)
    for name in specs.FIELDS:
        said, found = getattr(over, name), getattr(merged, name)
        if name in ("env", "labels"):
            assert found == ({**(getattr(base, name) or {}), **said} if said is not None else getattr(base, name))
        else:
            assert found == (getattr(base, name) if said is None else said)


@given(SPECS)
def test_a_header_says_what_the_spec_says(spec):
    header = json.loads(json.dumps(specs.to_header(spec)))
    assert specs.from_header("x", header) == spec
