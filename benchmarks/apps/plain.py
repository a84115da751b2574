"""Plain Celery: no container."""

from celery import Celery

app = Celery("plain")
app.conf.update(task_default_queue="bench-plain", worker_prefetch_multiplier=1, task_acks_late=True)


@app.task
def noop():
    return None
