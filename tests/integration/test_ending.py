"""How the engine says that a container ended."""

import os
import time
from signal import SIGKILL

import pytest

from cellwork_worker.executors.docker.ending import exit_of, ran_out
from cellwork_worker.executors.docker.engine import Engine

EATS = "held = bytearray(200 << 20)\nfor at in range(0, len(held), 4096): held[at] = 1"


@pytest.fixture
def ended(engine):
    """Start a container with 32 MiB, have it killed, and give it with the state that the engine then shows."""
    made = []

    def run(code: str, kill=None):
        container = engine.containers.run(
            "cellwork/python:base", ["python3", "-c", code], mem_limit="32m", network_mode="none", detach=True
        )
        made.append(container)
        if kill is not None:
            kill(container)
        assert container.wait()["StatusCode"] == 137
        container.reload()
        return container, container.attrs["State"]

    yield run
    for container in made:
        container.remove(force=True)


def test_the_event_tells_of_memory_also_where_the_state_does_not(engine, ended):
    container, state = ended(EATS)
    assert ran_out(engine.api, container.id, state | {"OOMKilled": False})
    assert exit_of(Engine(), container.id).oom


def test_a_kill_through_the_engine_is_told_apart_at_once(engine, ended):
    container, state = ended("import time; time.sleep(60)", lambda container: container.kill())
    began = time.monotonic()
    assert not ran_out(engine.api, container.id, state)
    assert time.monotonic() - began < 0.9, "not at the end of the time that the engine has for its events"
    found = exit_of(Engine(), container.id)
    assert (found.oom, found.killed) == (False, True)


def test_a_kill_past_the_engine_is_no_lack_of_memory(engine, ended):
    def kill(container):
        container.reload()
        os.kill(container.attrs["State"]["Pid"], SIGKILL)

    container, _ = ended("import time; time.sleep(60)", kill)
    found = exit_of(Engine(), container.id)
    assert (found.oom, found.killed) == (False, True)
