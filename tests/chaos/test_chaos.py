"""Nothing is lost and nothing runs twice, whatever goes wrong. A failing seed is repeated with CHAOS_SEED=…"""

import os
import random
import re
import subprocess

import pytest
from chaos.driver import Run
from pages import consoles
from pages.blocks import ROOT
from pages.claims import the_line

#: The halves of a run that is shared (``-n 2``) must draw the same.
SHARED = os.environ.get("PYTEST_XDIST_TESTRUNUID")

#: As with Hypothesis: a continuous integration's run meets the same faults every time, people's own runs meet new ones.
FIRST = int(os.environ.get("CHAOS_SEED") or (1 if os.environ.get("CI") else random.Random(SHARED).randrange(10**6)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + 2))
def test_nothing_is_lost_nothing_runs_twice_and_nothing_is_left(seed, engine, no_broker_named, tmp_path):
    figures = Run(seed, tmp_path / "chaos").run()
    print(figures)
    assert figures.tasks > 20
    assert sum(figures.faults.values()) >= 4
    assert (figures.lost, figures.doubled, figures.left, figures.died) == ([], {}, [], []), f"seed {seed}"


@pytest.mark.timeout(300)
def test_the_long_form_does_the_same_with_another_seed(engine, no_broker_named):
    ran = subprocess.run(
        ["bash", "-c", the_line("CONTRIBUTING.md", "make chaos").replace("50", "1")],
        cwd=ROOT,
        env={**os.environ, "CHAOS_SEED": str(FIRST + 2), "PATH": consoles.path()},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert f"seed {FIRST + 2}\n" in ran.stdout
    tasks, faults = map(int, re.findall(r"^1 seeds, (\d+) tasks, (\d+) faults", ran.stdout, re.MULTILINE)[0])
    assert tasks > 20
    assert faults >= 4
