"""A schedule: Celery beat sends, and each run is a sandbox of its own."""

import os
import time
from pathlib import Path

from celery import Celery
from celery.schedules import crontab

from cellwork import configure

app = configure(
    Celery("clock"), defaults={"image": os.environ.get("CELLWORK_BASE_IMAGE", "python:3.12-slim"), "memory": "64m"}
)

#: Seconds between two heartbeats.
EVERY = float(os.environ.get("EVERY", "10"))

BEATS = Path("/tmp/beats")

app.conf.timezone = "Europe/Berlin"
app.conf.beat_schedule = {
    # Where nobody takes it before the next one is sent, it is not worth running any more.
    "heartbeat": {"task": "clock.heartbeat", "schedule": EVERY, "options": {"expires": EVERY}},
    # Options of the sandbox can differ by entry, as in apply_async.
    "nightly report": {
        "task": "clock.report",
        "schedule": crontab(hour=3, minute=30),
        "kwargs": {"days": 1},
        "options": {"memory": "256m"},
    },
    "monthly report": {
        "task": "clock.report",
        "schedule": crontab(day_of_month=1, hour=4, minute=0),
        "kwargs": {"days": 31},
        "options": {"memory": "1g", "max_running": 1},
    },
}


@app.task
def heartbeat():
    # A container that served two runs would count to two.
    beats = int(BEATS.read_text()) + 1 if BEATS.exists() else 1
    BEATS.write_text(str(beats))
    print(f"it is {time.strftime('%H:%M:%S')}, beat {beats} of this sandbox", flush=True)


@app.task
def report(days):
    return f"nothing happened in {days} days"
