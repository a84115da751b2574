"""The engine by itself: the same calls that the executor makes, with no queue and no pool around them."""

import time
import uuid

import docker

from cellwork.spec import ContainerSpec
from cellwork_worker.executors.docker import DockerExecutor
from cellwork_worker.executors.docker.container import container_config
from cellwork_worker.executors.docker.engine import ANSWER_TIMEOUT
from cellwork_worker.hardening import harden
from cellwork_worker.launch import Launch

IMAGE = "cellwork/python:base"


def launch() -> Launch:
    """A hardened container that starts Python and ends."""
    return Launch(
        id=f"cellwork-bench-{uuid.uuid4().hex}",
        task="bench",
        task_id="bench",
        spec=harden("bench", ContainerSpec(image=IMAGE), ContainerSpec()),
        argv=("python3", "-c", "pass"),
        env={},
        payload=None,
        labels={"cellwork.installation": "benchmark", "cellwork.worker": "bare"},
    )


class Bare:
    """Bare calls: create, attach, start, read to the end, wait; removed afterwards, outside of the time."""

    def __init__(self) -> None:
        # As anybody has it: the executor's own client is faster.
        self._client = docker.from_env(version="auto", timeout=ANSWER_TIMEOUT).api

    def __call__(self) -> float:
        """Seconds."""
        one = launch()
        config = container_config(one, 10 << 20)
        began = time.perf_counter()
        self._client.create_container_from_config(config, one.id)
        stream = self._client.attach(one.id, stream=True)
        self._client.start(one.id)
        for _ in stream:
            pass
        self._client.wait(one.id)
        took = time.perf_counter() - began
        self._client.remove_container(one.id, force=True)
        return took


class Direct:
    """The executor, called directly."""

    def __init__(self) -> None:
        self._executor = DockerExecutor(installation="benchmark", worker="direct")

    def __call__(self) -> float:
        """Seconds."""
        one = launch()
        began = time.perf_counter()
        self._executor.run(one, lambda stream, chunk: False)
        took = time.perf_counter() - began
        self._executor._containers.remover.wait()
        return took

    def close(self) -> None:
        """Remove its namespace holders."""
        self._executor.sweep(frozenset())
