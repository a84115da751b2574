"""One worker for the tests that only need one, and after each test a look at what is left."""

from collections.abc import Iterator

import pytest
from waiting import wait_until


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
