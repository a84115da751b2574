"""The tests' application: bodies of all kinds that misbehave."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "project"))

from shop.app import app  # noqa: F401 - the worker is started with it
from shop.hostile import (
    forges_frames,
    kills_its_parent,
    leaves_at_once,
    prints_garbage,
    raises_nasty,
    returns_much,
)
from shop.tasks import echo as noop
from shop.tasks import unserialisable

#: Each sends one; those of tests/integration/test_misbehaviour.py.
CALLS: list[Callable[[], Any]] = [
    unserialisable.delay,
    prints_garbage.delay,
    forges_frames.delay,
    leaves_at_once.delay,
    kills_its_parent.delay,
    raises_nasty.delay,
    lambda: returns_much.delay(9 << 20),
    lambda: noop.apply_async((1,), image="cellwork/nowhere:1"),
]
