"""Tasks that print."""

import os
import sys
import time

from cellwork import current

from .app import app


@app.task
def talks():
    print("one")
    print("two", file=sys.stderr)
    print("three")
    import logging

    logging.getLogger("shop.talk").info("four")
    current.log.warning("five")
    sys.stdout.write("an open end")
    return "said"


@app.task
def says_and_waits(seconds):
    print("before")
    time.sleep(seconds)
    print("after")


@app.task(max_retries=2)
def says_and_retries():
    print(f"try {current.retries}")
    if current.retries < 2:
        current.retry(countdown=0)


@app.task
def is_silent():
    return None


@app.task(ignore_result=True)
def says_and_is_ignored():
    print("heard by the log only")


@app.task
def writes_escapes():
    os.write(1, b"\x1b[2J\x1b]0;owned\x07 \xff\n")


@app.task
def prints_lines(count):
    for number in range(count):
        sys.stdout.write(f"line {number:08} {'x' * 80}\n")
    return count


@app.task
def prints_and_returns(printed, returned, length=100):
    """So many bytes each; `length`: of a line."""
    line = "y" * (length - 1)
    for _ in range(printed // length):
        print(line)
    return "x" * returned


@app.task
def repeats(text):
    print(text)
    return text
