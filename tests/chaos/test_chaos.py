"""Nothing is lost and nothing runs twice, whatever goes wrong. A failing seed is repeated with CHAOS_SEED=…"""

import os
import random

import pytest
from chaos.driver import Run

#: The halves of a run that is shared (``-n 2``) must draw the same.
SHARED = os.environ.get("PYTEST_XDIST_TESTRUNUID")

#: As with Hypothesis: a continuous integration's run meets the same faults every time, people's own runs meet new ones.
FIRST = int(os.environ.get("CHAOS_SEED") or (1 if os.environ.get("CI") else random.Random(SHARED).randrange(10**6)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + 3))
def test_nothing_is_lost_nothing_runs_twice_and_nothing_is_left(seed, engine, no_broker_named, tmp_path):
    figures = Run(seed, tmp_path / "chaos").run()
    print(figures)
    assert figures.tasks > 20
    assert sum(figures.faults.values()) >= 4
    assert (figures.lost, figures.doubled, figures.left, figures.died) == ([], {}, [], []), f"seed {seed}"
