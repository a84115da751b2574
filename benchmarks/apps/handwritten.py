"""What people write by hand: a Celery task that calls the Docker SDK."""

import docker
from celery import Celery

app = Celery("handwritten")
app.conf.update(task_default_queue="bench-handwritten", worker_prefetch_multiplier=1, task_acks_late=True)
_clients = []


def _run(**options):
    if not _clients:
        _clients.append(docker.from_env())
    command = ["python3", "-c", "print(None)"]
    return _clients[0].containers.run("cellwork/python:base", command, remove=True, **options).decode()


@app.task
def noop():
    """As the SDK's documentation has it: with the engine's own network."""
    return _run()


@app.task
def alone():
    """Without a network, as a sandbox is unless its task asks for one."""
    return _run(network_mode="none")
