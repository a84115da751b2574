"""An API server and a node of these tests' own, which can be told to fail; and an executor of pods on it."""

import uuid
from collections.abc import Callable, Collection, Iterator

import pytest
from emulator.apiserver import ApiServer
from emulator.cluster import write_kubeconfig
from emulator.node import Node
from podruns import INSTALLATION, Running, launch
from waiting import wait_until

from cellwork_worker.executors.kubernetes import KubernetesExecutor, Limits


@pytest.fixture(scope="package")
def node(engine) -> Iterator[Node]:
    node = Node(f"cellwork.emulated-node={uuid.uuid4().hex[:12]}")
    yield node
    node.close()


@pytest.fixture(scope="package")
def server(node) -> Iterator[ApiServer]:
    server = ApiServer(node.logs)
    node.serve(server.store)
    server.metrics = node.metrics
    yield server
    server.close()


@pytest.fixture(autouse=True)
def leaves_nothing(server) -> Iterator[None]:
    """No pod and no Secret is left; and no fault is left for the next test."""
    yield
    server._faults.clear()
    wait_until(lambda: not server.store._objects, timeout=40, what="all pods and Secrets to be gone")


@pytest.fixture
def make_executor(server, tmp_path, monkeypatch) -> Iterator[Callable[..., KubernetesExecutor]]:
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path, server.url)))
    made = []

    def make(worker: str = "one", registries: Collection[str] = (), **limits: float) -> KubernetesExecutor:
        made.append(
            KubernetesExecutor(installation=INSTALLATION, worker=worker, limits=Limits(**limits), registries=registries)
        )
        return made[-1]

    yield make
    for executor in made:
        executor.sweep(frozenset())


@pytest.fixture
def executor(make_executor) -> KubernetesExecutor:
    return make_executor()


@pytest.fixture
def start(executor) -> Callable[..., Running]:
    return lambda script, payload=None, **options: Running(executor, launch(script, payload, **options))
