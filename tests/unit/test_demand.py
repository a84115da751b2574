"""How many warm sandboxes are wanted."""

from hypothesis import given
from hypothesis import strategies as st

from cellwork_worker.executors.docker.demand import Demand, WarmLimits

LIMITS = WarmLimits(min=0, max=8, idle_seconds=60)


def test_none_is_wanted_before_a_task_asked():
    assert Demand(WarmLimits(min=3)).wanted(0) == 0


def test_one_task_at_a_time_wants_one_and_one_to_spare():
    demand = Demand(LIMITS)
    for now in range(10):
        demand.begin(now)
        demand.end()
    assert demand.wanted(10) == 2


def test_a_burst_wants_as_many_as_ran_at_once_and_the_wish_outlives_it():
    demand = Demand(LIMITS)
    for _ in range(5):
        demand.begin(1)
    for _ in range(5):
        demand.end()
    assert demand.wanted(30) == 6


def test_an_old_burst_is_forgotten_although_tasks_still_come():
    demand = Demand(LIMITS)
    for _ in range(5):
        demand.begin(0)
    for _ in range(5):
        demand.end()
    for now in (30, 59, 61, 90):
        demand.begin(now)
        demand.end()
    assert demand.wanted(90) == 2


def test_an_idle_shape_keeps_the_minimum():
    demand = Demand(WarmLimits(min=1, max=8, idle_seconds=60))
    demand.begin(0)
    demand.end()
    assert (demand.wanted(59), demand.wanted(60)) == (2, 1)
    demand.forget()
    assert demand.wanted(0) == 0


@given(st.integers(0, 5), st.integers(0, 5), st.lists(st.integers(1, 20), max_size=20))
def test_what_is_wanted_stays_within_its_bounds(least, most, bursts):
    demand = Demand(WarmLimits(min=least, max=most, idle_seconds=10))
    for now, burst in enumerate(bursts):
        for _ in range(burst):
            demand.begin(now)
        for _ in range(burst):
            demand.end()
        assert min(least, most) <= demand.wanted(now) <= most
