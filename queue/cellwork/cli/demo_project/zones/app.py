"""The demo's Celery application."""

from celery import Celery

from cellwork import configure

app = configure(Celery("zones", include=["zones.tasks"]))
app.conf.update(worker_send_task_events=True, task_send_sent_event=True, task_track_started=True)
