"""The engine's proxy before a real engine: a worker works through it, and who takes the worker over gets no further."""

import socket
import subprocess
import sys
from functools import partial

import docker
import pytest
from docker.errors import APIError, NotFound
from waiting import wait_until

IMAGE = "cellwork/python:base"


@pytest.fixture(scope="module")
def door(installation, tmp_path_factory):
    """Its socket."""
    folder = tmp_path_factory.mktemp("engineproxy")
    listen = folder / "docker.sock"
    command = [sys.executable, "-m", "cellwork_worker.engineproxy", f"--listen={listen}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--installation={installation}"], stderr=log)
    wait_until(lambda: subprocess.run([*command, "--check"], capture_output=True).returncode == 0, what="the proxy")
    yield listen
    process.terminate()
    assert process.wait(10) == 0
    said = (folder / "log").read_text()
    assert "Traceback" not in said, said


@pytest.fixture
def through(door):
    client = docker.APIClient(base_url=f"unix://{door}", version="auto")
    yield client
    client.close()


@pytest.fixture
def foreign(engine):
    """A container that is not one of the installation's."""
    container = engine.containers.run(IMAGE, ["sleep", "1000"], detach=True, network_mode="none")
    yield container
    container.remove(force=True)


def test_a_worker_works_through_it_warm_and_cold(door, shop, start_worker, containers_of, nothing_left):
    worker = start_worker("-c", "2", "-Q", "proxied", DOCKER_HOST=f"unix://{door}")
    add, sleep = shop.tasks.add, shop.tasks.sleep
    assert [add.apply_async((n, 1), queue="proxied").get(timeout=60) for n in range(8)] == list(range(1, 9))
    cold = [add.apply_async((n, 1), queue="proxied", warm=False) for n in range(4)]
    assert [result.get(timeout=60) for result in cold] == [1, 2, 3, 4]
    ended = sleep.apply_async((1000,), queue="proxied", time_limit=1)
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        ended.get(timeout=60)
    nothing_left()
    worker.stop()
    assert containers_of(worker) == []


def test_another_container_cannot_be_read_entered_joined_or_stopped(through, foreign, installation):
    stats = partial(through.stats, stream=False)
    for call in (through.inspect_container, through.logs, through.kill, stats, through.wait, through.start):
        with pytest.raises(APIError, match=f"not one of installation {installation}"):
            call(foreign.id)
    with pytest.raises(APIError, match="not one of installation"):
        through.attach_socket(foreign.name, {"stdin": 1, "stream": 1})
    with pytest.raises(APIError, match="not one of installation"):
        through.remove_container(foreign.name, force=True)
    config = {
        "Image": IMAGE,
        "Labels": {"cellwork.installation": installation},
        "HostConfig": {
            "NetworkMode": f"container:{foreign.id}",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Memory": 1 << 24,
            "PidsLimit": 4,
        },
    }
    with pytest.raises(APIError, match="not one of installation"):
        through.create_container_from_config(config)
    foreign.reload()
    assert foreign.status == "running"


def test_what_does_not_exist_is_answered_as_the_engine_answers(through):
    with pytest.raises(NotFound, match="No such container"):
        through.inspect_container("cellwork-none-0")


def test_a_root_container_is_refused(through):
    with pytest.raises(APIError, match="does not pass the engine's proxy"):
        through.create_container(IMAGE, host_config=through.create_host_config(privileged=True, binds=["/:/host"]))


def exchange(door, *requests: bytes) -> bytes:
    """Everything that comes back for bytes sent at once."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(str(door))
        raw.sendall(b"".join(requests))
        answer = b""
        while piece := raw.recv(1 << 16):
            answer += piece
    return answer


@pytest.mark.parametrize(
    "first",
    [
        b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
        b"POST /containers/cellwork-none-0/attach HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
        b"GET /_ping\n\nGET /images/json HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nX-Registry-Auth: a\r\n\tb\r\n\r\n",
    ],
)
def test_no_second_request_slips_in_behind_the_first(door, first):
    answer = exchange(door, first, b"GET /images/json HTTP/1.1\r\nHost: d\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"RepoTags" not in answer


def test_attaching_to_what_does_not_run_gives_no_connection_to_the_engine(door, through, installation):
    """An attach that the engine answers with an error, on a connection that asked to be kept."""
    config = {
        "Image": IMAGE,
        "Cmd": ["true"],
        "Labels": {"cellwork.installation": installation},
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Memory": 1 << 24,
            "PidsLimit": 4,
        },
    }
    made = through.create_container_from_config(config)["Id"]
    try:
        attach = f"POST /containers/{made}/attach?stream=maybe&logs=1 HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\n\r\n"
        answer = exchange(door, attach.encode(), b"GET /images/json HTTP/1.1\r\nHost: d\r\n\r\n")
        assert b"RepoTags" not in answer
    finally:
        through.remove_container(made)
