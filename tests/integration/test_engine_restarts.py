"""The engine goes away while tasks run: stopped, upgraded under live-restore, or out of disk."""

import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from chaos.way import EngineWay
from conftest import WorkerProcess
from ownengine import OwnEngine
from waiting import wait_until

import cellwork
from cellwork.errors import EngineUnavailable

BUSYBOX = "cellwork/busybox:base"
PYTHON = "cellwork/python:base"
TIMEOUT = 90

#: Bytes: room for the image and little else.
SMALL_DISK = 24 << 20

#: Ends by itself when the engine asks it to; says so in its log every time that it begins.
BODY = 'trap "exit 143" TERM; echo began; n=0; while [ $n -lt 60 ]; do sleep 0.1; n=$((n + 1)); done; echo ended'


class LosingWay(EngineWay):
    """A sandbox is started by it, and the task that was on its way there is lost: once."""

    lost = 0

    def __init__(self, folder: Path, *, open_input: bool, warm: bool) -> None:
        """Args:
        folder: where its socket is.
        open_input: the sandbox's standard input stays open, as with an engine that restarts with live-restore.
        warm: the task is lost that is given to a sandbox which has got its code before.
        """
        self._open_input, self._warm = open_input, warm
        self._closed = threading.Event()
        super().__init__(folder)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
                if b"/attach?" not in data:
                    continue
                if self._warm:
                    sink.sendall(source.recv(1 << 16))
                if (payload := source.recv(1 << 16)) and not self.lost:
                    self.lost += 1
                    if self._open_input:
                        source.shutdown(socket.SHUT_RDWR)
                        self._closed.wait()
                    break
                sink.sendall(payload)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed.set()
        super().close()


class DeafWay(EngineWay):
    """The answer to the first start is lost by it, as with an engine that goes away, and the first removals after."""

    def __init__(self, folder: Path, removals: int) -> None:
        """`removals`: how many of them."""
        self._starts, self._removals = 0, removals
        super().__init__(folder)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if data.startswith(b"DELETE ") and self._starts and self._removals:
                    self._removals -= 1
                    break
                sink.sendall(data)
                if b"/start HTTP" in data:
                    self._starts += 1
                    if self._starts == 1:
                        break
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def deaf(request, start_worker, tmp_path) -> Iterator[WorkerProcess]:
    """A worker that reaches its engine that way."""
    way = DeafWay(tmp_path, request.param)
    worker = start_worker("-c", "1", "-Q", "deaf", DOCKER_HOST=way.url, SHOP_VOLUMES=str(tmp_path))
    yield worker
    worker.stop()
    way.close()


@pytest.fixture(scope="module")
def own() -> Iterator[OwnEngine]:
    with OwnEngine() as engine:
        engine.copy(BUSYBOX)
        engine.copy(PYTHON)
        yield engine


@pytest.fixture
def small() -> Iterator[OwnEngine]:
    with OwnEngine(disk=SMALL_DISK) as engine:
        engine.copy(BUSYBOX)
        yield engine


@pytest.fixture
def stuck(own) -> Iterator[Callable[[str], None]]:
    """Make a container that its engine cannot remove, as one is that the engine was making when it ended."""
    made = []

    def make(name: str) -> None:
        made.append(own.client.containers.create(BUSYBOX, name=name))
        upper = own.client.api.inspect_container(made[-1].id)["GraphDriver"]["Data"]["UpperDir"]
        subprocess.run(["chattr", "+i", upper], check=True)
        made[-1].upper = upper

    yield make
    for container in made:
        subprocess.run(["chattr", "-i", container.upper], check=True)
        container.remove(force=True)


@pytest.fixture
def start(start_worker, shop):
    """Start a worker on an engine; gives it and a function that sends it a script, or another task's argument."""
    workers = []

    def start(engine: OwnEngine, **env: str):
        queue = f"engines-{uuid.uuid4().hex}"
        workers.append(start_worker("-c", "2", "-Q", queue, DOCKER_HOST=engine.url, **env))

        def send(argument: object, task=shop.commands.script, **options: object):
            return task.apply_async((argument,), queue=queue, **options)

        return workers[-1], send

    yield start
    for worker in workers:
        worker.stop()


def printed(result) -> list[str]:
    return [line.text for line in cellwork.logs(result.id, app=result.app)]


def began(result) -> None:
    wait_until(lambda: "began" in printed(result), timeout=TIMEOUT, what="the body to begin")


def test_a_task_whose_engine_ends_and_returns_runs_again_without_a_retry_of_its_own(own, start):
    worker, send = start(own)
    result = send(BODY)
    began(result)
    own.stop()
    own.start()
    assert result.get(timeout=TIMEOUT).split() == ["began", "ended"]
    assert result.retries in (None, 0)
    assert printed(result).count("began") == 2
    # What happened, to which sandbox, and what is done about it.
    assert f"sandbox cellwork-{result.id}-0" in worker.text


def test_under_live_restore_a_task_does_not_notice_that_the_engine_restarts(own, start):
    own.stop()
    own.start(live_restore=True)
    _, send = start(own)
    result = send(BODY)
    began(result)
    own.stop()
    own.start(live_restore=True)
    assert result.get(timeout=TIMEOUT).split() == ["began", "ended"]
    assert printed(result) == ["began", "ended"]


def test_a_body_that_ends_while_its_engine_is_away_is_not_run_a_second_time(own, start, shop, tmp_path):
    own.stop()
    own.start(live_restore=True)
    tmp_path.chmod(0o777)
    _, send = start(own, SHOP_VOLUMES=str(tmp_path))
    result = send(2.0, shop.tasks.entered, volumes=[f"{tmp_path}:/ledger"])

    def written(word: str) -> int:
        ledger = tmp_path / "ledger"
        return ledger.read_text().count(f"{word} {result.id}") if ledger.exists() else 0

    wait_until(lambda: written("start"), timeout=TIMEOUT, what="the body to begin")
    own.stop()
    wait_until(lambda: written("end"), timeout=TIMEOUT, what="the body to end")
    own.start(live_restore=True)
    assert result.get(timeout=TIMEOUT) == 2.0
    assert written("start") == 1


@pytest.mark.parametrize("open_input", [False, True], ids=["input ended", "input open"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_task_that_was_lost_on_its_way_into_its_sandbox_gets_another(open_input, warm, start_worker, shop, tmp_path):
    way = LosingWay(tmp_path, open_input=open_input, warm=warm)
    worker = start_worker("-c", "1", "-Q", "losing", DOCKER_HOST=way.url)
    results = [shop.tasks.echo.apply_async((n,), queue="losing", warm=warm) for n in range(1 + 9 * warm)]
    assert [result.get(timeout=2 * TIMEOUT) for result in results] == [*range(len(results))]
    assert way.lost == 1
    assert "got no task" in worker.text
    worker.stop()
    way.close()


@pytest.mark.parametrize("deaf", [0], indirect=True)
def test_a_command_whose_start_went_unanswered_is_not_started_a_second_time(deaf, shop, tmp_path):
    ledger = tmp_path / "ledger"
    ledger.touch()
    ledger.chmod(0o666)
    script = "echo began >>/ledger; sleep 3; echo ended"
    result = shop.commands.script.apply_async((script,), queue="deaf", volumes=[f"{ledger}:/ledger"])
    assert result.get(timeout=TIMEOUT) == "ended\n"
    assert ledger.read_text() == "began\n"
    assert "no Docker engine answers" in deaf.text


@pytest.mark.parametrize("deaf", [1], indirect=True)
def test_a_sandbox_whose_start_went_unanswered_is_replaced_before_anything_is_expected_of_it(deaf, shop):
    result = shop.tasks.echo.apply_async((7,), queue="deaf", warm=False, fresh_network=True)
    assert result.get(timeout=TIMEOUT) == 7
    assert "is not removed: no Docker engine answers" in deaf.text
    assert "got no task" not in deaf.text


def test_a_task_runs_though_its_engine_keeps_a_container_of_its_name_that_it_cannot_remove(own, start, stuck):
    worker, send = start(own)
    task_id = str(uuid.uuid4())
    stuck(f"cellwork-{task_id}-0")
    result = send("echo ran", task_id=task_id)
    assert result.get(timeout=TIMEOUT).strip() == "ran"
    assert f"has a container cellwork-{task_id}-0 that it can neither start nor remove" in worker.text


def test_a_task_fails_clearly_when_its_engine_does_not_return_and_the_worker_goes_on(own, start):
    _, send = start(own, CELLWORK_ENGINE_PATIENCE="1")
    result = send(BODY)
    began(result)
    own.stop()
    with pytest.raises(EngineUnavailable, match=r"no Docker engine answers at unix://.*Start it"):
        result.get(timeout=TIMEOUT)
    own.start()
    assert send("echo back").get(timeout=TIMEOUT).strip() == "back"
    # That could not be removed when its task failed, and no reaper looks at what a worker has that lives.
    name = f"cellwork-{result.id}-0"
    wait_until(lambda: not own.client.containers.list(all=True, filters={"name": name}), TIMEOUT, what=f"{name} to go")


def test_a_full_disk_is_named_and_the_task_runs_once_there_is_room(small, start):
    worker, send = start(small, CELLWORK_INFRA_BACKOFF="0.5")
    assert send("echo room").get(timeout=TIMEOUT).strip() == "room"
    filler = small.data / "filler"
    # Ends with an error, for there is no more room.
    assert subprocess.run(["cp", "/dev/zero", filler], stderr=subprocess.DEVNULL, check=False).returncode == 1
    result = send("echo after all")
    wait_until(lambda: "no space left on device" in worker.text, timeout=TIMEOUT, what="the worker to say so")
    assert not result.ready()
    filler.unlink()
    assert result.get(timeout=TIMEOUT).strip() == "after all"
