"""The work: it runs in a sandbox, and says how far it is."""

import os
import random

from celery import Celery

from cellwork import configure, current

app = configure(
    Celery("tasks"), defaults={"image": os.environ.get("CELLWORK_BASE_IMAGE", "python:3.12-slim"), "memory": "128m"}
)
app.conf.task_track_started = True

#: Random points of one step.
POINTS = 200_000


@app.task(time_limit=300, stop_grace=1)  # stopped, it has a second to leave by itself
def estimate_pi(steps):
    """Throw points at a square; the share of those in its circle is a quarter of pi."""
    inside = 0
    for step in range(1, steps + 1):
        inside += sum(random.random() ** 2 + random.random() ** 2 <= 1 for _ in range(POINTS))
        current.update_state(state="PROGRESS", meta={"done": step, "of": steps, "pi": 4 * inside / (step * POINTS)})
    return 4 * inside / (steps * POINTS)
