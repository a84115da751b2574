"""Who has a share of a machine: never more than there is, and nobody waits for ever."""

from math import inf

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from cellwork import settings
from cellwork.errors import InvalidSetting
from cellwork_worker.admission import MOST_PASSED, Admission, Size

TOTAL = Size(8, 2.0)


def size(memory: int, cpus: float = 0.0) -> Size:
    return Size(memory, cpus)


def test_one_that_does_not_fit_waits_until_another_leaves():
    machine = Admission(TOTAL)
    machine.ask("a", size(5))
    machine.ask("b", size(4))
    assert ("a" in machine, "b" in machine, machine.waiting) == (True, False, 1)
    machine.leave("a")
    assert "b" in machine
    assert machine.used == size(4)


def test_processors_count_too_unless_there_is_no_end_of_them():
    machine, endless = Admission(TOTAL), Admission(Size(8, inf))
    for one in (machine, endless):
        one.ask("a", size(1, 1.5))
        one.ask("b", size(1, 1.5))
    assert ("b" in machine, "b" in endless) == (False, True)


def test_smaller_ones_go_before_a_large_one_but_not_for_ever():
    machine = Admission(TOTAL)
    machine.ask("first", size(1))
    machine.ask("large", size(8))
    for number in range(MOST_PASSED):
        machine.ask(number, size(1))
        assert number in machine
        machine.leave(number)
    machine.ask("too many", size(1))
    assert "too many" not in machine
    machine.leave("first")
    assert "large" in machine


def test_one_that_runs_already_counts_and_one_that_gives_up_waits_no_longer():
    machine = Admission(TOTAL)
    machine.count("adopted", size(20))
    machine.ask("a", size(1))
    assert "a" not in machine
    machine.leave("a")
    machine.leave("adopted")
    assert (machine.used, machine.waiting) == (size(0), 0)


sizes = st.builds(Size, st.integers(0, 8), st.integers(0, 200).map(lambda cents: cents / 100))
steps = st.lists(st.tuples(st.booleans(), sizes, st.integers(0, 30)), max_size=60)


@given(steps)
def test_there_is_never_more_given_than_there_is_and_in_the_end_everybody_had_a_share(steps):
    machine, asked, had = Admission(TOTAL), [], set()
    for number, (asks, wanted, which) in enumerate(steps):
        if asks:
            machine.ask(number, wanted)
            asked.append(number)
        elif running := [one for one in asked if one in machine]:
            machine.leave(running[which % len(running)])
        had |= {one for one in asked if one in machine}
        assert machine.used.within(TOTAL)
    for _ in range(len(asked)):
        for one in [one for one in asked if one in machine]:
            machine.leave(one)
        had |= {one for one in asked if one in machine}
    assert had == set(asked)
    assert machine.waiting == 0


def test_settings_of_the_host_take_units_and_refuse_less_than_nothing(monkeypatch):
    app = Celery("sizes", set_as_current=False)
    monkeypatch.setenv("CELLWORK_HOST_MEMORY", "1.5g")
    monkeypatch.setenv("CELLWORK_HOST_CPUS", "2.5")
    loaded = settings.load(app)
    assert (loaded.host_memory, loaded.host_cpus, loaded.host_memory_reserve) == (3 << 29, 2.5, 512 << 20)
    for wrong in ({"host_memory": "lots"}, {"host_memory": 0}, {"host_memory_reserve": -1}, {"cpu_overcommit": -0.5}):
        with pytest.raises(InvalidSetting, match=next(iter(wrong))):
            settings.check(wrong)
