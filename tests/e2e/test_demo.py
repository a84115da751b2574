"""``cellwork demo``, what ``make demo`` runs, as a person sees it in a terminal and as a program reads it."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from ports import free_port

DEMO = [sys.executable, "-m", "cellwork", "demo"]

#: Seconds; whichever run is first builds two images, or two environments.
TIMEOUT = 280

#: Of its terminal.
COLUMNS = 120

pytestmark = pytest.mark.timeout(TIMEOUT + 20)


@pytest.fixture
def environment(installation) -> dict[str, str]:
    """Of somebody who has prepared nothing."""
    broker = f"redis://127.0.0.1:{free_port()}"
    return {
        **os.environ,
        "CELERY_BROKER_URL": f"{broker}/0",
        "CELERY_RESULT_BACKEND": f"{broker}/1",
        "CELLWORK_INSTALLATION": installation,
        "CELLWORK_BASE_IMAGE": "cellwork/python:base",
        "DEMO_BUSYBOX": "cellwork/busybox:base",
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
    }


def in_a_terminal(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Its status, and all that it wrote to a terminal."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    written = b""
    with subprocess.Popen(command, env=env, stdin=its, stdout=its, stderr=its, start_new_session=True) as process:
        os.close(its)
        try:
            while piece := os.read(ours, 1 << 16):
                written += piece
        except OSError:
            pass  # nobody has the terminal open any more
        os.close(ours)
        return process.wait(TIMEOUT), written.decode()


def test_the_tour_shows_its_tasks_while_they_run_and_leaves_nothing(engine, environment, nothing_left):
    status, written = in_a_terminal(DEMO, environment)
    assert status == 0, written
    # One table, drawn anew over itself.
    drawn = written.split("TASK")[1:]
    assert len(drawn) > 3
    assert written.count("\x1b[1A") > 3
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn[-1])
    for said in (
        r"validate_with_1 +SUCCESS .* pydantic 1\.\S+ accepts 312 rows",
        r"validate_with_2 +SUCCESS .* pydantic 2\.\S+ accepts 0 rows, refuses",
        r"rows \| southernmost \| sentence +SUCCESS .*Antarctica",
        r"checksum \(no Python inside\) +SUCCESS .* [0-9a-f]{12}",
        r"fails \(on purpose\) +FAILURE .*IndexError: list index out of range",
        r"zones/tasks\.py\", line \d+, in fails",
        r"nothing is left running",
    ):
        assert re.search(said, text), text
    assert re.search(r"(PENDING|STARTED)", drawn[0])
    assert "sandboxes Docker engine" in written
    nothing_left()


def test_without_an_engine_the_same_tasks_run_in_processes_and_it_says_what_that_means(environment):
    env = {**environment, "DOCKER_HOST": "unix:///nowhere.sock"}
    ran = subprocess.run([*DEMO, "--json"], env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert ran.returncode == 0, ran.stderr
    assert [row["state"] for row in json.loads(ran.stdout)] == ["SUCCESS"] * 4 + ["FAILURE"]
    said = " ".join(ran.stderr.split())
    assert "isolates nothing" in said
    assert "apt-get install docker.io" in said
