"""Images that come from a registry."""

import base64
import contextlib
import json
import uuid

import pytest
from docker.errors import ImageNotFound
from registry import serving
from waiting import wait_until

from cellwork.errors import ImageUnavailable, StartTimeout
from cellwork.spec import ContainerSpec, parse
from cellwork_worker.executors.base import Exit
from cellwork_worker.executors.docker import DockerExecutor
from cellwork_worker.hardening import harden
from cellwork_worker.launch import Launch


@pytest.fixture
def busybox(engine):
    return engine.images.get("cellwork/busybox:base")


@pytest.fixture
def run(engine, installation):
    """Run a sandbox of an image of the registry; the image is removed afterwards."""
    executor = DockerExecutor(installation=installation, worker="puller")
    pulled = []

    def run(image: str, **options: object) -> tuple[bytes, Exit]:
        pulled.append(image)
        spec = harden("t", parse("t", {"image": image, "memory": "64m", **options}), ContainerSpec())
        output = []
        ended = executor.run(
            Launch(
                id=f"cellwork-{uuid.uuid4().hex}-0",
                task="t",
                task_id="t",
                spec=spec,
                argv=("echo", "hello"),
                env={},
                payload=None,
                labels={"cellwork.installation": installation, "cellwork.worker": "puller"},
            ),
            lambda stream, chunk: output.append(chunk) or False,
        )
        return b"".join(output), ended

    yield run
    executor.sweep(frozenset())
    for image in set(pulled):
        with contextlib.suppress(ImageNotFound):
            engine.api.remove_image(image)


def test_a_missing_image_is_pulled_and_a_present_one_is_not_asked_for_again(run, busybox):
    with serving(busybox) as registry:
        image = f"{registry.name}/shop/busybox:1"
        output, ended = run(image)
        assert output == b"hello\n"
        assert 0 < ended.pull_seconds < ended.start_seconds
        asked = len(registry.asked)
        output, ended = run(image)
        assert (output, ended.pull_seconds) == (b"hello\n", None)
        assert len(registry.asked) == asked > 0
        output, ended = run(image, pull="always")
        assert output == b"hello\n"
        assert ended.pull_seconds > 0
        assert len(registry.asked) > asked


def test_an_image_is_pulled_by_its_digest(run, busybox):
    with serving(busybox) as registry:
        assert run(f"{registry.name}/shop/busybox@{registry.manifest}")[0] == b"hello\n"


def test_a_registry_that_hangs_is_given_up_at_the_start_timeout(run, busybox):
    with serving(busybox) as registry:
        registry.answering.clear()
        with pytest.raises(StartTimeout, match=r"still being pulled after start_timeout=1 s.*pull it beforehand"):
            run(f"{registry.name}/shop/busybox:2", start_timeout=1)
        wait_until(lambda: registry.asked, what="the registry to have been asked")


def test_a_private_registry_is_given_the_workers_login_and_refuses_without(run, busybox, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with serving(busybox, login="shop:s3cret") as registry:
        image = f"{registry.name}/shop/busybox:3"
        with pytest.raises(ImageUnavailable, match=r"cannot pull image.*no basic auth credentials.*docker login"):
            run(image)
        auth = base64.b64encode(b"shop:s3cret").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.name: {"auth": auth}}}))
        assert run(image)[0] == b"hello\n"
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(ImageUnavailable):
            run(image, pull="always")
