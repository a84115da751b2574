"""The reaper, with real workers: what a dead one left goes, what a live one or another installation has stays."""

import json
import signal
import subprocess
import sys
import uuid

import pytest
import redis
from conftest import PROJECT
from waiting import wait_until

VISIBILITY = 2
TIMEOUT = 60


def reap(*arguments: str):
    command = [sys.executable, "-m", "cellwork", "reap", "-A", "shop.app", "--json", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {entry["sandbox"] for entry in json.loads(done.stdout)}


@pytest.fixture
def leave(engine, installation):
    """Start a container as a worker leaves it; give its name."""
    made = []

    def leave(worker: str, *, of: str = installation) -> str:
        task_id = str(uuid.uuid4())
        labels = {"cellwork.installation": of, "cellwork.worker": worker, "cellwork.task-id": task_id}
        name = f"cellwork-{task_id}-0"
        made.append(
            engine.containers.run("cellwork/busybox:base", ["sleep", "300"], name=name, labels=labels, detach=True)
        )
        return name

    yield leave
    there = {container["Id"] for container in engine.api.containers(all=True)}
    for container in made:
        if container.id in there:
            container.remove(force=True)


def ids(engine, installation: str) -> set[str]:
    found = engine.api.containers(all=True, filters={"label": f"cellwork.installation={installation}"})
    # One that is being removed has no name for a moment.
    return {name.lstrip("/") for container in found for name in container["Names"] or ()}


def store_outcome(broker: str, name: str) -> None:
    task_id = name.removeprefix("cellwork-").removesuffix("-0")
    meta = {"status": "SUCCESS", "result": None, "traceback": None, "children": [], "task_id": task_id}
    redis.Redis.from_url(f"{broker}/1").set(f"celery-task-meta-{task_id}", json.dumps(meta))


def test_a_killed_workers_namespaces_go_once_it_is_known_to_be_dead(shop, start_worker, containers_of, containers):
    worker = start_worker("-c", "1", "-Q", "reaped", name="reaped", CELLWORK_VISIBILITY_TIMEOUT=str(VISIBILITY))
    shop.tasks.echo.apply_async((1,), queue="reaped").get(timeout=TIMEOUT)
    wait_until(lambda: containers_of(worker) and not containers(), what="holders and warm ones alone to be there")
    worker.signal(signal.SIGKILL)
    worker.wait()
    other = start_worker("-c", "1", "-Q", "reaped", name="reaper", CELLWORK_VISIBILITY_TIMEOUT=str(VISIBILITY))
    wait_until(lambda: not containers_of(worker), timeout=TIMEOUT, what="the dead worker's holder to go")
    other.stop()


def test_reap_ends_what_is_left_and_a_dry_run_only_says_so(broker, leave, engine, installation, shared_worker):
    other = f"tests-other-{uuid.uuid4().hex[:8]}"
    orphan, waiting = leave("dead@test"), leave("dead@test")
    alive, foreign = leave(shared_worker.name), leave("dead@test", of=other)
    for name in (orphan, alive, foreign):
        store_outcome(broker, name)
    wait_until(lambda: reap("--dry-run") == {orphan}, timeout=30, what="the orphan to be old enough")
    assert {orphan, waiting, alive} <= ids(engine, installation)
    # The shared worker reaps by itself, too, but not before its next visibility timeout.
    assert reap() == {orphan}
    wait_until(lambda: orphan not in ids(engine, installation), what="it to be gone")
    assert {waiting, alive} <= ids(engine, installation)
    assert foreign in ids(engine, other)
    for name in (waiting, alive, foreign):
        engine.api.remove_container(name, force=True)
