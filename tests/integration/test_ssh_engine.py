"""An engine behind SSH: what DOCKER_HOST=ssh://… means."""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ports import free_port
from waiting import wait_until

import cellwork
from cellwork.errors import EngineUnavailable
from cellwork_worker.executors.docker.engine import Engine

TIMEOUT = 60


@dataclass
class Host:
    """An SSH server that lets the tests in."""

    process: "subprocess.Popen[bytes]"
    path: str

    def cut(self) -> None:
        """End all connections."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert children
        for child in children:
            os.kill(int(child), signal.SIGKILL)


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("ssh")
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    port = free_port()
    Path("/run/sshd").mkdir(exist_ok=True)
    options = ["StrictModes=no", "UsePAM=no", f"AuthorizedKeysFile={folder}/user.pub", "PidFile=none"]
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(port), "-h", folder / "host"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, "-oListenAddress=127.0.0.1", *(f"-o{o}" for o in options)], stderr=log)
    wait_until(lambda: "listening" in (folder / "log").read_text(), what="the SSH server to listen")
    (folder / "config").write_text(
        f"Host engine-host\n HostName 127.0.0.1\n Port {port}\n User {os.environ.get('USER', 'root')}\n"
        f" IdentityFile {folder}/user\n UserKnownHostsFile {folder}/known\n StrictHostKeyChecking accept-new\n"
    )
    # A user has this in ~/.ssh/config.
    program = folder / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/config "$@"\n')
    program.chmod(0o755)
    yield Host(server, f"{program.parent}:{os.environ['PATH']}")
    server.terminate()
    server.wait(TIMEOUT)


@pytest.fixture(scope="module")
def far(host, start_worker):
    """A worker whose engine is there."""
    worker = start_worker("-c", "2", "-Q", "ssh", PATH=host.path, DOCKER_HOST="ssh://engine-host")
    yield worker
    worker.stop()


def test_tasks_run_on_an_engine_behind_ssh(far, shop):
    assert "executor docker: Docker engine" in far.text
    for _ in range(3):
        assert shop.tasks.add.apply_async((1, 2), queue="ssh").get(timeout=TIMEOUT) == 3
    long = "x" * 3_000_000
    assert shop.tasks.echo.apply_async((long,), queue="ssh").get(timeout=TIMEOUT) == long
    assert len(shop.commands.checksum.apply_async(("text",), queue="ssh").get(timeout=TIMEOUT)) == 65
    assert shop.hostile.floods.apply_async((5,), queue="ssh").get(timeout=TIMEOUT) == 5


def test_a_task_does_not_notice_that_the_ssh_connection_breaks(host, far, shop):
    result = shop.commands.script.apply_async(("echo began; sleep 3; echo ended",), queue="ssh")

    def printed() -> list[str]:
        return [line.text for line in cellwork.logs(result.id, app=result.app)]

    wait_until(lambda: "began" in printed(), timeout=TIMEOUT, what="the body to begin")
    host.cut()
    assert result.get(timeout=TIMEOUT).split() == ["began", "ended"]
    assert printed() == ["began", "ended"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ssh://engine-host/nowhere.sock", "SSH connects, but nothing answers at /nowhere.sock on that host"),
        ("ssh://there-is-no-such-host.invalid", "Could not resolve hostname"),
    ],
)
def test_an_engine_that_cannot_be_reached_by_ssh_is_named_with_the_reason(host, monkeypatch, address, said):
    monkeypatch.setenv("PATH", host.path)
    with pytest.raises(EngineUnavailable, match=said) as seen:
        _ = Engine(address).client
    assert address in str(seen.value)
