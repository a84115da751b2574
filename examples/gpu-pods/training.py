"""Three steps. By what the middle one asks for, cellwork.toml makes a pod of it; the others stay containers."""

import os
import random
import shutil
import subprocess

from celery import Celery

from cellwork import configure, current

BASE = os.environ.get("CELLWORK_BASE_IMAGE", "python:3.12-slim")

#: Such as pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime. What trains here is plain Python, and so any image will do.
TRAINING = os.environ.get("TRAINING_IMAGE", BASE)

app = configure(Celery("training"), defaults={"image": BASE, "memory": "128m"})


@app.task
def prepare(rows):
    """Samples (x, y) of y = 3x + 2, with noise."""
    dice = random.Random(1)
    return [(x := dice.uniform(-1, 1), 3 * x + 2 + dice.gauss(0, 0.1)) for _ in range(rows)]


@app.task(image=TRAINING, gpus=1, memory="2g", time_limit=3600)
def train(samples, epochs=200, rate=0.1):
    """Fit y = ax + b by gradient descent. Here your own training goes."""
    gpu = graphics_card()
    print(f"training on {gpu}", flush=True)
    a = b = 0.0
    for epoch in range(epochs):
        errors = [a * x + b - y for x, y in samples]
        a -= rate * 2 * sum(e * x for e, (x, _) in zip(errors, samples, strict=True)) / len(samples)
        b -= rate * 2 * sum(errors) / len(samples)
        if epoch % 50 == 0:
            loss = sum(e * e for e in errors) / len(samples)
            print(f"epoch {epoch}: loss {loss:.4f}", flush=True)
            current.update_state(state="PROGRESS", meta={"epoch": epoch, "of": epochs, "loss": loss})
    return {"a": a, "b": b, "trained_on": gpu, "pod": os.environ.get("HOSTNAME", "")}


@app.task
def report(model):
    """What came out, for people."""
    return f"y = {model['a']:.2f}x + {model['b']:.2f}, trained on {model['trained_on']}"


def graphics_card():
    """Its name; NVIDIA's runtime puts nvidia-smi into the sandbox."""
    if shutil.which("nvidia-smi") is None:
        return "the processor: this sandbox sees no GPU"
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.strip()
