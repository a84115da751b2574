"""Nothing is lost and nothing runs twice, whatever goes wrong. A failing seed is repeated with CHAOS_SEED=…"""

import os
import random

import pytest
from chaos.driver import Run

#: As with Hypothesis: a continuous integration's run meets the same faults every time, people's own runs meet new ones.
FIRST = int(os.environ.get("CHAOS_SEED") or (1 if os.environ.get("CI") else random.randrange(10**6)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + 3))
def test_nothing_is_lost_nothing_runs_twice_and_nothing_is_left(seed, engine, tmp_path, monkeypatch):
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):  # of the other tests
        monkeypatch.delenv(name, raising=False)
    figures = Run(seed, tmp_path / "chaos").run()
    print(figures)
    assert figures.tasks > 20
    assert sum(figures.faults.values()) >= 4
    assert (figures.lost, figures.doubled, figures.left, figures.died) == ([], {}, [], []), f"seed {seed}"
