"""The example's tasks. Their bodies run in containers of SANDBOX_IMAGE; this module is imported by the worker, too."""

import os
import time

from .app import app


@app.task(memory="128m")
def total(prices):
    """The sum of an order."""
    return round(sum(prices), 2)


@app.task(memory="128m")
def pack(parcels, seconds=1.0):
    """Pack parcels one by one, and say so; return the name of the machine that did it."""
    for number in range(1, parcels + 1):
        print(f"packing parcel {number} of {parcels}", flush=True)
        time.sleep(seconds)
    return os.uname().nodename


@app.task(memory="128m")
def stock():
    """What the schedule asks for every minute."""
    count = int(time.time()) // 60 % 1000
    print(f"{count} left")
    return count
