"""One worker for the tests that only need one, and after each test a look at what is left."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dockerruns
import pytest
from waiting import wait_until

from cellwork_worker.executors.docker import DockerExecutor
from cellwork_worker.launch import Launch


@pytest.fixture(scope="session")
def shared_worker(start_worker):
    """A worker of four slots that no test may end."""
    return start_worker("-c", "4", name="shared")


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, nothing_left) -> Iterator[None]:
    """After each test no container is left, and the shared worker runs nothing."""
    yield
    nothing_left()
    if "shared_worker" in request.fixturenames:
        worker = request.getfixturevalue("shared_worker")
        wait_until(lambda: not worker.inspect("active"), what="the shared worker to be idle")


class Gate:
    """Tasks that end when the test says so, however slow the machine is: a folder that their sandboxes see."""

    def __init__(self, folder: Path, script) -> None:
        folder.chmod(0o777)
        self._folder = folder
        self._script = script
        #: For workers that are to run such tasks.
        self.env = {"SHOP_VOLUMES": str(folder)}

    def send(self, queue: str):
        """A task whose result is "through"."""
        body = "echo >>/gate/begun; until [ -e /gate/open ]; do sleep 0.1; done; echo through"
        return self._script.apply_async((body,), queue=queue, volumes=[f"{self._folder}:/gate"])

    def begun(self) -> int:
        """How many bodies have begun."""
        file = self._folder / "begun"
        return file.read_text().count("\n") if file.exists() else 0

    def open(self) -> None:
        (self._folder / "open").touch()


@pytest.fixture
def gate(shop, tmp_path_factory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate"), shop.commands.script)


@pytest.fixture
def tasks(shop, shared_worker):
    """The tasks, with a worker that runs them."""
    return shop.tasks


@pytest.fixture
def hostile(shop, shared_worker):
    return shop.hostile


@pytest.fixture
def commands(shop, shared_worker):
    return shop.commands


@pytest.fixture
def make_executor(engine, installation) -> Iterator[Callable[[str], DockerExecutor]]:
    made: list[DockerExecutor] = []

    def make(worker: str) -> DockerExecutor:
        made.append(DockerExecutor(installation=installation, worker=worker))
        return made[-1]

    yield make
    for executor in made:
        executor.sweep(frozenset())
        assert executor.sweep(frozenset()) == []


@pytest.fixture
def launch(installation) -> Callable[..., Launch]:
    """Make a `Launch` of a script of the shell."""
    return lambda script, **options: dockerruns.launch(installation, "sh", "-c", script, **options)
