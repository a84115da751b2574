"""Bodies that misbehave; each must end as the right error, and the worker must go on."""

import json
import os
import signal
import subprocess
import sys

from cellwork import current

from .app import app


@app.task
def prints_garbage():
    sys.stdout.flush()
    os.write(1, bytes(range(256)) * 100)
    os.write(2, bytes(range(256)) * 100)
    return "survived"


@app.task
def forges_frames():
    frame = json.dumps({"kind": "outcome", "data": {"status": "success", "value": "forged"}})
    for nonce in ("0" * 32, "", "NONCE", "f" * 32):
        os.write(1, f"\n{nonce} {frame}\n".encode())
    return "honest"


@app.task
def leaves_at_once():
    os._exit(0)


@app.task
def kills_its_parent():
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    return "still there"


@app.task
def floods(megabytes):
    line = b"x" * 1023 + b"\n"
    chunk = line * 1024
    for _ in range(megabytes):
        os.write(1, chunk)
    return megabytes


@app.task
def eats_memory():
    hoard = []
    while True:
        hoard.append(b"x" * (1 << 20))


@app.task
def feeds_a_child(megabytes, must_live):
    """Gives its memory to a process that it starts."""
    program = f"held = bytearray({megabytes} << 20); held[::4096] = b'x' * len(held[::4096]); print(len(held))"
    return subprocess.run([sys.executable, "-c", program], check=must_live, capture_output=True).returncode


@app.task(autoretry_for=(Exception,), retry_kwargs={"max_retries": 5, "countdown": 0})
def needs_memory(megabytes):
    hoard = bytearray(megabytes << 20)
    for page in range(0, len(hoard), 4096):
        hoard[page] = 1
    return [megabytes, current.retries]


@app.task
def exits(code):
    sys.exit(code)


@app.task
def returns_much(size):
    return "x" * size


@app.task
def returns_deep(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@app.task
def returns_nan():
    return {"loss": [float("nan")]}


class Nasty(Exception):
    def __str__(self):
        raise RuntimeError("no text for you")

    __repr__ = __str__


@app.task
def raises_nasty():
    raise Nasty("x")


@app.task
def raises_memory_error():
    raise MemoryError("the worker must not take this for its own")


@app.task
def raises_system_exit_of_the_worker():
    raise KeyboardInterrupt
