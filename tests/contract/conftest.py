"""Executors that really run, and launches for them."""

import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psutil
import pytest
from waiting import wait_until

from cellwork.spec import ContainerSpec
from cellwork_worker.executors.base import STARTED, STDERR, STDOUT, Executor, Exit
from cellwork_worker.executors.process import ProcessExecutor
from cellwork_worker.launch import Launch, labels, worker_labels

Complete = Callable[[int, bytes], bool]

#: This run's own, so that runs side by side on one engine do not see each other's sandboxes.
INSTALLATION = f"tests-{uuid.uuid4().hex[:12]}"

SPEC = ContainerSpec(
    image="cellwork/busybox:base",
    pull="never",
    user="65534:65534",
    cpus=1.0,
    memory=256 << 20,
    memory_swap=256 << 20,
    pids=64,
    shm_size=1 << 20,
    network="none",
    read_only=True,
    tmpfs={"/tmp": 64 << 20},
    stop_signal="SIGTERM",
    stop_grace=10.0,
    start_timeout=60.0,
    code="ship",
    python="python3",
    result="text",
)


@pytest.fixture(scope="module", params=["docker", "process", "kubernetes"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def executor(kind, request) -> Iterator[Executor]:
    """An executor; swept at the end, after which nothing of it may be left, no container kept for reuse either."""
    if kind == "process":
        yield ProcessExecutor()
        return
    if kind == "kubernetes":
        cluster = request.getfixturevalue("cluster")
        from cellwork_worker.executors.kubernetes import KubernetesExecutor

        pods = KubernetesExecutor(installation=INSTALLATION, worker="contract", namespace=cluster.namespace)
        yield pods
        pods.sweep(set())
        return
    engine = request.getfixturevalue("engine")
    from cellwork_worker.executors.docker import DockerExecutor

    executor = DockerExecutor(installation=INSTALLATION, worker="contract")
    yield executor
    executor.sweep(set())
    assert containers(engine, f"cellwork.installation={INSTALLATION}") == []


def containers(engine: Any, *labels: str) -> list[str]:
    found = engine.api.containers(all=True, filters={"label": list(labels)})
    return [name for container in found for name in container["Names"]]


def kind_of(request) -> str:
    return request.getfixturevalue("kind")


@pytest.fixture(autouse=True)
def leaves_nothing(request) -> Iterator[None]:
    """After each test, and without a sweep: no sandbox of this run, and no child process more than before."""
    executor = request.getfixturevalue("executor") if "executor" in request.fixturenames else None
    docker = executor is not None and kind_of(request) == "docker"
    engine = request.getfixturevalue("engine") if docker else None
    cluster = request.getfixturevalue("cluster") if executor is not None and kind_of(request) == "kubernetes" else None
    before = set(psutil.Process().children(recursive=True))

    def left() -> list[str]:
        processes = [str(process) for process in set(psutil.Process().children(recursive=True)) - before]
        ours = f"cellwork.installation={INSTALLATION}"
        found = containers(engine, ours, "cellwork.task-id") if engine else []
        return processes + found + (cluster.left() if cluster else [])

    yield
    try:
        wait_until(lambda: not left(), what="all sandboxes to be gone")
    except pytest.fail.Exception:
        remains = left()
        if executor is not None:
            executor.sweep(set())
        pytest.fail(f"left behind: {remains}")


@pytest.fixture
def launch(request) -> Callable[..., Launch]:
    """Make a `Launch`: argv, and what differs from `SPEC`."""
    pods = "kind" in request.fixturenames and kind_of(request) == "kubernetes"
    image = request.getfixturevalue("cluster").image if pods else SPEC.image

    def make(*argv: str, payload: bytes | None = None, env: dict[str, str] | None = None, **spec: Any) -> Launch:
        task_id = uuid.uuid4().hex
        given = {name: getattr(SPEC, name) for name in SPEC.__struct_fields__} | {"image": image} | spec
        complete = ContainerSpec(**given)
        return Launch(
            id=f"cellwork-{task_id}-0",
            task="tests.task",
            task_id=task_id,
            spec=complete,
            argv=argv,
            env=env or {},
            payload=payload,
            labels=labels(worker_labels(INSTALLATION, "contract", "", ""), "tests.task", task_id, complete),
        )

    return make


class Run:
    """One `Executor.run` in a thread of its own, and what it gave."""

    def __init__(self, executor: Executor, launch: Launch, complete: Complete = lambda stream, chunk: False) -> None:
        self.launch = launch
        self.events: list[tuple[int, bytes]] = []
        self._complete = complete
        self._executor = executor
        self._ended: Exit | BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._ended = self._executor.run(self.launch, self._emit)
        except BaseException as error:  # noqa: BLE001 - raised by `exit`
            self._ended = error

    def _emit(self, stream: int, chunk: bytes) -> bool:
        self.events.append((stream, chunk))
        return stream != STARTED and self._complete(stream, chunk)

    @property
    def started(self) -> bool:
        return (STARTED, b"") in self.events

    @property
    def stdout(self) -> bytes:
        return b"".join(chunk for stream, chunk in list(self.events) if stream == STDOUT)

    @property
    def stderr(self) -> bytes:
        return b"".join(chunk for stream, chunk in list(self.events) if stream == STDERR)

    def wait_output(self, text: bytes) -> None:
        wait_until(lambda: text in self.stdout or self._ended, what=f"{text!r} on standard output")
        assert text in self.stdout, f"it ended before it printed {text!r}: {self._ended!r}"

    def exit(self, timeout: float = 30) -> Exit:
        """How it ended; raises what `Executor.run` raised."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._executor.stop(self.launch.id, 9)
            pytest.fail(f"{self.launch.argv} had not ended after {timeout} s")
        if isinstance(self._ended, BaseException):
            raise self._ended
        assert self._ended is not None
        return self._ended


@pytest.fixture
def start_on() -> type[Run]:
    """Start a launch on the executor given; its `exit()` is how it ended."""
    return Run


@pytest.fixture
def start(executor) -> Callable[..., Run]:
    """Start a launch on the executor under test."""
    return partial(Run, executor)
