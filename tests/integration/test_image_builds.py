"""Images that tasks declare, built by real workers on a real engine."""

import re
import uuid
from collections.abc import Callable

import builtimages
import pytest
from builtimages import built
from celery import Celery
from conftest import WorkerProcess
from storing_registry import storing

from cellwork import configure
from cellwork.errors import ImageBuildFailed, PolicyViolation
from cellwork_worker.executors.docker import Engine
from cellwork_worker.executors.docker.built import push

TIMEOUT = 100


@pytest.fixture
def name() -> str:
    return f"pantry-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def stock(tmp_path, name, monkeypatch):
    """The file that goes into all images of the pantry; its content makes them this test's own."""
    (tmp_path / "stock").mkdir()
    file = tmp_path / "stock" / "flour"
    file.write_text(f"flour {name}\n")
    monkeypatch.setenv("PANTRY_ROOT", str(tmp_path))
    monkeypatch.setenv("PANTRY_NAME", name)
    return file


@pytest.fixture
def send(broker, name, stock):
    """Send a task of the pantry by its name, as a producer without the files would."""
    app = configure(Celery("sender"))
    queue = name
    yield lambda task, **options: app.send_task(f"pantry.{task}", queue=queue, **options)
    app.close()


@pytest.fixture
def start(broker, engine, installation, name, stock, tmp_path) -> Callable[..., WorkerProcess]:
    """Start a worker of the pantry; what it built is removed afterwards."""
    started: list[WorkerProcess] = []

    def start(**env: str) -> WorkerProcess:
        worker = f"pantry{len(started)}-{uuid.uuid4().hex[:6]}"
        arguments = ("-c", "4", "-Q", name)
        env = {"PANTRY_INSTALLATION": installation, **env}
        process = WorkerProcess(None, tmp_path / f"{worker}.log", worker, arguments, env, module="pantry")
        started.append(process)
        return process.wait_ready()

    yield start
    for process in started:
        process.stop()
    builtimages.remove(engine, name)


def builds(*workers: WorkerProcess) -> int:
    return sum(worker.text.count(" was built in ") for worker in workers)


def test_two_tasks_of_one_app_have_two_versions_of_a_library(start, send, engine, name):
    worker = start()
    results = [send(task) for task in ("old", "new", "old")]
    assert [result.get(timeout=TIMEOUT) for result in results] == ["1.16.0", "1.17.0", "1.16.0"]
    assert builds(worker) == 2
    assert len(built(engine, name)) >= 2


def test_a_changed_file_makes_another_image_and_an_unchanged_one_is_not_built_again(start, send, stock):
    first = start()
    before = stock.read_text()
    assert send("shelf").get(timeout=TIMEOUT) == f"{before}5 $\n"
    first.stop()
    second = start()
    assert send("shelf").get(timeout=TIMEOUT) == f"{before}5 $\n"
    assert builds(second) == 0
    second.stop()
    stock.write_text(f"fresh {before}")
    third = start()
    assert send("shelf").get(timeout=TIMEOUT) == f"fresh {before}5 $\n"
    assert builds(third) == 1


def test_two_workers_and_all_their_slots_build_an_image_once(start, send, engine):
    workers = start(), start()
    results = [send("shelf") for _ in range(8)]
    for result in results:
        result.get(timeout=TIMEOUT)
    assert builds(*workers) == 1


def test_an_image_that_was_removed_meanwhile_is_built_again(start, send, engine, name, nothing_left):
    worker = start()
    send("shelf").get(timeout=TIMEOUT)
    nothing_left()
    # What is left is the idle namespace holder, which comes from the image, too.
    for container in engine.api.containers(all=True, filters={"label": f"cellwork.worker={worker.name}"}):
        engine.api.remove_container(container["Id"], force=True)
    for image in built(engine, name):
        engine.api.remove_image(image["Id"], force=True)
    assert "flour" in send("shelf").get(timeout=TIMEOUT)
    assert builds(worker) == 2


def test_a_build_that_fails_names_the_step_and_quotes_its_last_lines(start, send):
    start()
    with pytest.raises(ImageBuildFailed) as caught:
        send("broken").get(timeout=TIMEOUT)
    told = str(caught.value)
    assert told.startswith("task pantry.broken: image cellwork/pantry-busybox:")
    # BuildKit counts other steps than the classic builder.
    assert re.search(r"cannot be built: step (3/\d|2/2) \(RUN ", told)
    assert "exit 3" in told
    assert "  flour is out\n" in told
    assert "\\x1b[31m sugar too" in told
    assert "\x1b" not in told


def test_a_worker_that_may_not_build_says_where_it_is_to_be_done(start, send, engine, name):
    start(PANTRY_BUILD="deny")
    with pytest.raises(PolicyViolation, match=r"task pantry\.shelf: .* may not build .*cellwork images build"):
        send("shelf").get(timeout=TIMEOUT)
    assert built(engine, name) == []


def test_a_worker_that_may_not_build_pulls_from_the_images_registry(
    start, send, engine, name, nothing_left, remove_image
):
    with storing() as registry:
        builder = start(PANTRY_REGISTRY=registry.name)
        said = send("shelf").get(timeout=TIMEOUT)
        assert builds(builder) == 1
        ((tag,),) = [image["RepoTags"] for image in built(engine, name)]
        assert tag.startswith(f"{registry.name}/cellwork/pantry-busybox:")
        digest = push(Engine(), tag, tag)
        builder.stop()
        nothing_left()
        engine.api.remove_image(tag, force=True)
        runner = start(PANTRY_REGISTRY=registry.name, PANTRY_BUILD="deny")
        assert send("shelf").get(timeout=TIMEOUT) == said
        assert builds(runner) == 0
        # By its digest, as a message of a producer has it that knows the digests.
        nothing_left()
        remove_image(tag)
        result = send("shelf", image=digest)
        assert result.get(timeout=TIMEOUT) == said
        assert engine.images.get(digest).attrs["RepoTags"] == []
        remove_image(digest)
