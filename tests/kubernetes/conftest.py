"""Workers whose tasks become pods, and after each test a look at what is left in the namespace."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from conftest import WorkerProcess
from podruns import INSTALLATION
from waiting import wait_until

from cellwork_worker.executors.kubernetes import KubernetesExecutor

# An emulated cluster cannot say what these ask: where no real one is named they are not there, and so not skipped.
collect_ignore = [] if "CELLWORK_TEST_KUBECONFIG" in os.environ else ["test_real.py"]


@pytest.fixture(scope="session")
def start_pod_worker(start_worker, cluster) -> Callable[..., WorkerProcess]:
    """Start a worker of the queue of pods alone; whoever starts one stops it."""

    def start(*arguments: str, name: str, queue: str = "kubernetes", **env: str) -> WorkerProcess:
        env = {"KUBECONFIG": str(cluster.kubeconfig), "CELLWORK_KUBE_NAMESPACE": cluster.namespace, **env}
        return start_worker(*(arguments or ("-c", "4")), "-Q", queue, name=name, **env)

    return start


@pytest.fixture
def executor(cluster) -> Iterator[KubernetesExecutor]:
    """Of pods, without a worker around it."""
    executor = KubernetesExecutor(installation=INSTALLATION, worker="one", namespace=cluster.namespace)
    yield executor
    executor.sweep(frozenset())


@pytest.fixture(scope="session")
def pod_worker(start_pod_worker) -> WorkerProcess:
    """One that no test may end."""
    return start_pod_worker(name="pods")


@pytest.fixture
def short_lived(start_pod_worker) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers of a queue of the test's own, with a short visibility timeout; ended afterwards."""
    started = []

    def start(name: str, *arguments: str, **env: str) -> WorkerProcess:
        env = {"CELLWORK_VISIBILITY_TIMEOUT": "4", "CELLWORK_EXECUTOR": "kubernetes", **env}
        started.append(start_pod_worker(*(arguments or ("-c", "2")), name=name, queue="own-pods", **env))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.signal(signal.SIGCONT)
        worker.stop()


@pytest.fixture
def send(shop, cluster, pod_worker) -> Callable:
    """Send a task as a pod."""
    return lambda task, *args, **options: task.apply_async(args, executor="kubernetes", image=cluster.image, **options)


@pytest.fixture
def undisturbed(shop):
    """Workers that other tests share take nothing meanwhile."""
    control = shop.app.app.control
    queues = control.inspect(timeout=2).active_queues() or {}
    others = [name for name, consumed in queues.items() if "docker" in {queue["name"] for queue in consumed}]
    if others:
        control.cancel_consumer("docker", others, reply=True, timeout=5)
    yield
    if others:
        control.add_consumer("docker", destination=others, reply=True, timeout=5)


@pytest.fixture
def container_worker(undisturbed, start_worker, tmp_path):
    """Of containers, with a router for which more than 100 MiB is heavy."""
    config = tmp_path / "cellwork.toml"
    config.write_text('[cellwork]\nheavy = { memory = "100m" }\n')
    worker = start_worker(
        "-c", "1", "-Q", "docker", name="light", CELLWORK_CONFIG=str(config), CELLWORK_VISIBILITY_TIMEOUT="4"
    )
    yield worker
    worker.stop()


@pytest.fixture(autouse=True)
def leaves_nothing(cluster) -> Iterator[None]:
    """After each test no pod and no Secret is left."""
    yield
    wait_until(partial(_nothing, cluster), timeout=40, what="all pods and Secrets to be gone")


def _nothing(cluster) -> bool:
    return cluster.left() == []
