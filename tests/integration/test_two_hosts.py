"""Two workers that share no engine: neither can adopt the other's sandbox, and still one of them runs a task."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from ownengine import OwnEngine
from waiting import wait_until

#: Seconds.
VISIBILITY = 3
TIMEOUT = 90

#: Runs until the test says so.
BODY = (
    "echo start >>/ledger/ledger; while [ ! -e /ledger/go ]; do sleep 0.1; done; echo end >>/ledger/ledger; echo over"
)


@pytest.fixture(scope="module")
def there() -> Iterator[OwnEngine]:
    """The other host's engine."""
    with OwnEngine() as engine:
        engine.copy("cellwork/busybox:base")
        yield engine


@pytest.fixture
def ledger(tmp_path) -> Path:
    tmp_path.chmod(0o777)
    return tmp_path / "ledger"


@pytest.fixture
def start(start_worker, there, ledger) -> Iterator[Callable]:
    """Start a worker, on the other host's engine or on this one's."""
    started = []

    def start(name: str, *, elsewhere: bool = False):
        engine = {"DOCKER_HOST": there.url} if elsewhere else {}
        limits = {"CELLWORK_VISIBILITY_TIMEOUT": str(VISIBILITY), "SHOP_VOLUMES": str(ledger.parent)}
        started.append(start_worker("-c", "1", "-Q", f"hosts,{name}", name=name, **limits, **engine))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.signal(signal.SIGCONT)
        worker.stop()


@pytest.fixture
def send(shop, ledger):
    def send(queue: str = "hosts", **options):
        return shop.commands.script.apply_async((BODY,), queue=queue, volumes=[f"{ledger.parent}:/ledger"], **options)

    return send


@pytest.fixture
def end(ledger, broker):
    """Let the bodies end; give the task's result once every message is acknowledged."""

    def end(result) -> str:
        (ledger.parent / "go").touch()
        said = result.get(timeout=TIMEOUT)
        client = redis.Redis.from_url(f"{broker}/0")
        wait_until(lambda: not client.exists("unacked"), timeout=TIMEOUT, what="all to be acknowledged")
        return said

    return end


@pytest.fixture
def running(there) -> Callable[[], list[str]]:
    """Sandboxes with a task on the other host."""
    return lambda: [one.name for one in there.client.containers.list() if one.labels.get("cellwork.task-id")]


def written(ledger: Path, word: str) -> int:
    return ledger.read_text().count(word) if ledger.exists() else 0


def test_another_host_waits_for_the_first_while_that_lives(start, send, end, ledger):
    first = start("host-lives", elsewhere=True)
    result = send()
    wait_until(lambda: written(ledger, "start"), timeout=TIMEOUT, what="the body to run")
    second = start("host-waits")
    send("host-waits", task_id=result.id)
    wait_until(lambda: "this delivery is left to that worker" in second.text, timeout=TIMEOUT, what="it to be told")
    assert end(result) == "over\n"
    assert "succeeded" in first.text
    assert written(ledger, "start") == 1


def test_another_host_takes_over_and_the_first_ends_its_sandbox_and_stores_nothing(start, send, end, ledger, running):
    first = start("host-frozen", elsewhere=True)
    result = send()
    wait_until(lambda: written(ledger, "start"), timeout=TIMEOUT, what="the body to run")
    first.signal(signal.SIGSTOP)
    start("host-takes")
    wait_until(lambda: written(ledger, "start") == 2, timeout=TIMEOUT, what="the body to begin here")
    first.signal(signal.SIGCONT)
    wait_until(lambda: "its sandbox here is ended" in first.text, timeout=TIMEOUT, what="it to be fenced")
    wait_until(lambda: not running(), timeout=TIMEOUT, what="its sandbox to be gone")
    assert end(result) == "over\n"
    assert "succeeded" not in first.text
    assert written(ledger, "end") == 1


def test_what_a_dead_worker_left_on_its_host_goes_as_soon_as_another_host_has_its_task(
    start, send, end, ledger, running
):
    first = start("host-dies", elsewhere=True)
    result = send()
    wait_until(lambda: written(ledger, "start"), timeout=TIMEOUT, what="the body to run")
    first.signal(signal.SIGKILL)
    first.wait()
    start("host-takes-too")
    wait_until(lambda: written(ledger, "start") == 2, timeout=TIMEOUT, what="the body to begin here")
    again = start("host-dies", elsewhere=True)  # the same name, another process
    wait_until(lambda: "runs elsewhere now" in again.text, timeout=TIMEOUT, what="the reaper to see it")
    wait_until(lambda: not running(), timeout=TIMEOUT, what="the sandbox that was left to be gone")
    assert end(result) == "over\n"
    assert written(ledger, "end") == 1
