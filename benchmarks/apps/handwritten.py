"""What people write by hand: a Celery task that calls the Docker SDK."""

import docker
from celery import Celery

app = Celery("handwritten")
app.conf.update(task_default_queue="bench-handwritten", worker_prefetch_multiplier=1, task_acks_late=True)
_clients = []


@app.task
def noop():
    if not _clients:
        _clients.append(docker.from_env())
    output = _clients[0].containers.run(
        "cellwork/python:base", ["python3", "-c", "print(None)"], remove=True, network_mode="none"
    )
    return output.decode()
