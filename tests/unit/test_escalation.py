"""More memory, up to what the task may have."""

import pytest

from cellwork.errors import InvalidSpec, OutOfMemory, PolicyViolation
from cellwork.spec import ContainerSpec, parse
from cellwork_worker import escalation, policy
from cellwork_worker.hardening import harden

MIB = 1 << 20


def test_it_doubles_up_to_the_maximum_and_swap_stays_what_it_was():
    spec = parse("x", {"memory": "100m", "memory_swap": "110m", "memory_max": "300m"})
    sizes = []
    while (more := escalation.larger(spec)) is not None:
        spec = more
        sizes.append((spec.memory // MIB, spec.memory_swap // MIB))
    assert sizes == [(200, 210), (300, 310)]


def test_without_a_maximum_nothing_grows():
    assert escalation.larger(ContainerSpec(memory=1)) is None
    assert escalation.larger(ContainerSpec(memory=2, memory_max=2)) is None


def test_the_error_says_what_was_tried():
    told = escalation.exhausted(OutOfMemory("task x: killed"), [64 * MIB, 128 * MIB])
    assert str(told) == "task x: killed; it was tried with 64 MiB, 128 MiB, which is memory_max"
    error = OutOfMemory("task x: killed")
    assert escalation.exhausted(error, [64 * MIB]) is error


def test_a_maximum_below_the_memory_or_above_the_policy_is_refused():
    image = ContainerSpec(image="x")
    with pytest.raises(InvalidSpec, match="memory_max=1048576 is less than memory=536870912"):
        harden("x", parse("x", {"memory_max": "1m"}), image)
    spec = harden("x", parse("x", {"memory_max": "32g"}), image)
    with pytest.raises(PolicyViolation, match="memory_max"):
        policy.check("x", spec, policy.load({"max_memory": "16g"}))


def test_it_begins_with_what_earlier_runs_needed_but_with_no_more_than_it_may_have():
    spec = parse("x", {"memory": "100m", "memory_swap": "110m", "memory_max": "300m"})
    sizes = [escalation.at_least(spec, needed and needed * MIB) for needed in (None, 50, 200, 999)]
    assert [(one.memory // MIB, one.memory_swap // MIB) for one in sizes] == [
        (100, 110),
        (100, 110),
        (200, 210),
        (300, 310),
    ]
    fixed = parse("x", {"memory": "100m"})
    assert escalation.at_least(fixed, 1 << 30) is fixed
    assert escalation.at_most(spec, None) is spec
    assert (escalation.at_most(spec, 60 * MIB).memory // MIB, escalation.at_most(spec, 1 << 40)) == (60, spec)
