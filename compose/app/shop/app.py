"""The example's Celery application. Broker, backend and the rest come from the environment: ../../compose.yaml."""

import os

from celery import Celery

from cellwork import configure

app = configure(Celery("shop", include=["shop.tasks"]), defaults={"image": os.environ.get("SANDBOX_IMAGE")})
app.conf.update(
    worker_send_task_events=True,
    task_send_sent_event=True,
    task_track_started=True,
    result_expires=24 * 3600,
    beat_schedule={"stock-taking": {"task": "shop.tasks.stock", "schedule": 60.0}},
)
