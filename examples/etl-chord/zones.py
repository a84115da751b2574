"""The steps of the pipeline. Each runs in a sandbox of its own; what one returns is the next one's argument."""

import os
from importlib import resources

from celery import Celery
from celery.utils.log import get_task_logger

from cellwork import Image, configure, current

BASE = os.environ.get("CELLWORK_BASE_IMAGE", "python:3.12-slim")

app = configure(Celery("zones"), defaults={"image": BASE, "memory": "128m"})
logger = get_task_logger(__name__)


@app.task(image=Image(BASE).pip("tzdata==2025.2"))
def extract():
    """The IANA table of time zones, row by row: countries, position, name. Only this step's image has it."""
    table = resources.files("tzdata").joinpath("zoneinfo", "zone1970.tab").read_text()
    return [line.split("\t")[:3] for line in table.splitlines() if not line.startswith("#")]


@app.task(autoretry_for=(ConnectionError,), max_retries=3, retry_backoff=1, retry_jitter=False)
def transform(rows, region):
    """One region's zones, and the southernmost of them."""
    if region == "Antarctica" and current.retries == 0:
        raise ConnectionError("the line to Antarctica is down")  # a step that fails now and then: tried again after 1 s
    found = sorted((latitude(position), name) for _, position, name in rows if name.startswith(f"{region}/"))
    if not found:
        raise ValueError(f"the table has no zone in {region}")
    print(f"{region}: {len(found)} zones", flush=True)
    return {"region": region, "zones": len(found), "southernmost": found[0][1]}


@app.task
def load(parts):
    """What all regions gave, as one table. It is returned: a sandbox has no disk of yours, nor your database."""
    return sorted(parts, key=lambda part: part["zones"], reverse=True)


@app.task(executor="inline")
def alert(request, exc, traceback):
    """What happens when a step has failed for good. In the worker itself, as Celery runs such callbacks."""
    logger.error("the pipeline failed before %s[%s]: %r", request.task, request.id, exc)


def latitude(position):
    """Degrees of an ISO 6709 position, ±DDMM±DDDMM or ±DDMMSS±DDDMMSS."""
    sign, digits = position[0], position[1:].replace("-", "+").split("+")[0]
    degrees = int(digits[:2]) + int(digits[2:4]) / 60 + int(digits[4:] or 0) / 3600
    return -degrees if sign == "-" else degrees
