"""The same with cellwork: nothing but the defaults."""

import sys

from celery import Celery

from cellwork import configure

app = configure(Celery("ours"), installation="benchmark", defaults={"image": "cellwork/python:base"})
app.conf.update(task_default_queue="bench-ours")


@app.task
def noop():
    return None


@app.task(warm=False)
def cold():
    return None


@app.task
def flood(lines):
    line = "x" * 99 + "\n"
    for _ in range(lines):
        sys.stdout.write(line)
