"""Waiting for a condition, so that no test sleeps for a guessed time."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 30.0, what: str = "the condition") -> T:
    """Ask until `condition` gives something true, and return that.

    Args:
        condition: asked at least once, and once more after the time is up.
        timeout: seconds until the test fails.
        what: completes "waited 10 s for …".
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not (answer := condition()):
        left = deadline - time.monotonic()
        if left < 0:
            pytest.fail(f"waited {timeout:g} s for {what}; the last answer was {answer!r}")
        time.sleep(min(pause, max(left, 0.001)))
        pause = min(pause * 1.5, 0.05)
    return answer
