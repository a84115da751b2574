"""The same with cellwork: nothing but the defaults."""

import sys
import time

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


@app.task
def started():
    return time.time()


@app.task(memory="512m", memory_max="16g")
def needs(size):
    held = bytearray(size)
    for page in range(0, size, 4096):
        held[page] = 1


def _hold(megabytes, seconds):
    held = bytearray(megabytes << 20)
    for page in range(0, len(held), 4096):
        held[page] = 1
    time.sleep(seconds)


@app.task(memory_max="2g")
def holds20(seconds):
    _hold(20, seconds)


@app.task(memory_max="2g")
def holds60(seconds):
    _hold(60, seconds)


@app.task(memory_max="2g")
def holds150(seconds):
    _hold(150, seconds)


@app.task(memory_max="2g")
def holds400(seconds):
    _hold(400, seconds)


@app.task(memory_max="2g")
def holds700(seconds):
    _hold(700, seconds)
