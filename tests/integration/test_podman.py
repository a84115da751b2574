"""A Podman in the engine's place, through the API that it shares with Docker."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from celery.exceptions import TimeLimitExceeded
from waiting import wait_until

TIMEOUT = 60

#: Podman would raise the limits that are not given, which not every machine that runs the tests may do.
HERE = {"queue": "podman", "ulimits": {"nofile": 1024, "nproc": 4096}}

CONFIGURATION = """
[engine]
runtime = "runc"
"""


@pytest.fixture(scope="module")
def podman(tmp_path_factory, engine) -> Iterator[str]:
    """The address of a Podman of the tests' own, which holds the tests' images."""
    folder = tmp_path_factory.mktemp("podman")
    # It takes 50 characters.
    run = Path(tempfile.mkdtemp(prefix="cw"))
    (folder / "containers.conf").write_text(CONFIGURATION)
    environment = os.environ | {"CONTAINERS_CONF": str(folder / "containers.conf")}
    command = ["podman", "--root", folder / "root", "--runroot", run, "--log-level", "error"]
    for image in ("cellwork/python:base", "cellwork/busybox:base"):
        archive = folder / "image.tar"
        archive.write_bytes(b"".join(engine.images.get(image).save(named=True)))
        subprocess.run([*command, "load", "-q", "-i", archive], env=environment, check=True, stdout=subprocess.DEVNULL)
        archive.unlink()
    address = f"unix://{folder}/podman.sock"
    with (folder / "log").open("wb") as log:
        service = subprocess.Popen([*command, "system", "service", "--time=0", address], env=environment, stderr=log)
    wait_until((folder / "podman.sock").exists, what="Podman to listen")
    yield address
    service.terminate()
    service.wait(TIMEOUT)
    subprocess.run([*command, "system", "reset", "--force"], env=environment, check=True, capture_output=True)
    shutil.rmtree(run, ignore_errors=True)


def names(address: str) -> list[str]:
    client = docker.DockerClient(address)
    try:
        return [container.name for container in client.containers.list(all=True, ignore_removed=True)]
    finally:
        client.close()


@pytest.fixture(scope="module")
def worker(podman, start_worker):
    worker = start_worker("-c", "2", "-Q", "podman", DOCKER_HOST=podman)
    yield worker
    worker.stop()
    assert names(podman) == []


def test_tasks_and_commands_run_on_podman(worker, shop):
    assert "executor docker: Podman" in worker.text
    for _ in range(3):
        assert shop.tasks.add.apply_async((1, 2), **HERE).get(timeout=TIMEOUT) == 3
    long = "x" * 3_000_000
    assert shop.tasks.echo.apply_async((long,), **HERE).get(timeout=TIMEOUT) == long
    assert len(shop.commands.checksum.apply_async(("text",), **HERE).get(timeout=TIMEOUT)) == 65


def test_a_time_limit_ends_a_sandbox_on_podman(worker, shop, podman):
    result = shop.tasks.sleep.apply_async((60,), time_limit=2, **HERE)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=TIMEOUT)
    wait_until(lambda: not [name for name in names(podman) if result.id in name], what="the sandbox to be removed")
