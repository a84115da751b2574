"""The shell around a pod's command, as the shells of images run it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cellwork.spec import ContainerSpec
from cellwork_worker.executors import shell
from cellwork_worker.launch import Launch

SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]


@pytest.fixture(params=SHELLS)
def run(request, tmp_path):
    """Run a program under one of them. Gives its status, and what stands in the termination message."""

    def run(*program: str) -> tuple[int, str]:
        message = tmp_path / "termination-log"
        message.write_text("")
        own = [request.param, "sh"] if request.param == "busybox" else [request.param]
        script = shell.under("sh", program)[2].replace("/dev/termination-log", str(message))
        ended = subprocess.run([*own, "-c", script, "sh", *program], capture_output=True, timeout=30, check=False)
        return ended.returncode, message.read_text()

    return run


def test_there_are_two_shells_to_try():
    assert {"dash", "bash"} <= set(SHELLS)


@pytest.mark.parametrize(("program", "status"), [("no-such", 127), ("/no/such", 127), ("/etc/passwd", 126), ("/", 126)])
def test_a_program_that_cannot_be_run_is_told_from_one_that_ends_so(run, program, status):
    assert run(program, "argument") == (status, "never_ran\n")
    assert shell.never_ran("never_ran\n")
    ended, said = run("sh", "-c", f"exit {status}")
    assert (ended, shell.never_ran(said)) == (status, False)


def test_a_programs_words_in_the_message_give_way_to_the_figures(run, tmp_path):
    log = tmp_path / "termination-log"
    _, said = run("sh", "-c", f"echo words of its own; echo words of its own >{log}")
    assert "words" not in said


def test_a_program_has_its_arguments_as_they_are(run, tmp_path):
    words = ["", " a  b ", "$HOME", "*", "-n", "--", "'\"\\", "new\nline"]
    run("sh", "-c", 'printf "%s|" "$@" >' + str(tmp_path / "out"), "sh", *words)
    assert Path(tmp_path / "out").read_text().split("|")[:-1] == words


@pytest.fixture
def output_of():
    """What a program prints to standard error under a shell that tells its figures there."""

    def output_of(name: str, *program: str) -> str:
        own = [name, "sh"] if name == "busybox" else [name]
        _, _, script, *words = shell.under("sh", program, mark="<mark>")
        ended = subprocess.run([*own, "-c", script, *words], capture_output=True, timeout=30, check=False, text=True)
        return ended.stderr

    return output_of


@pytest.mark.parametrize("name", SHELLS)
def test_at_the_end_of_standard_error_stands_what_was_used(output_of, name):
    printed, mark, told = output_of(name, "sh", "-c", "echo its own >&2").partition("<mark>")
    assert (printed, mark) == ("its own\n", "<mark>")
    assert not shell.never_ran(told)
    assert shell.figures(told)["network_received_bytes"] >= 0
    told = output_of(name, "/no/such").partition("<mark>")[2]
    assert shell.never_ran(told)


V1 = """ended
254:0 Read 100
254:0 Write 10
254:0 Total 110
Total 110
254:16 Read 1
rchar: 123456
read_bytes: 0
write_bytes: 4096
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier comp
    lo:    9000       1    0    0    0     0          0         0     9000       1    0    0    0     0       0      0
  eth0:       5       1    0    0    0     0          0         0        6       1    0    0    0     0       0      0
  eth1:50       1    0    0    0     0          0         0        60       1    0    0    0     0       0          0
memory.max_usage_in_bytes 1000
cpuacct.usage 2500000000
inactive_file 7
total_inactive_file 100
total_active_file 20
"""

V2 = (
    V1[V1.index("Inter") : V1.index("memory.max")]
    + """254:0 rbytes=100 wbytes=10 rios=1 wios=1 dbytes=0 dios=0
254:16 rbytes=1 wbytes=0 rios=1 wios=0 dbytes=0 dios=0
memory.peak 1000
usage_usec 2500000
inactive_file 100
active_file 20
"""
)

EXPECTED = {
    "cpu_seconds": 2.5,
    "peak_memory_bytes": 880,
    "network_received_bytes": 55,
    "network_sent_bytes": 66,
    "disk_read_bytes": 101,
    "disk_written_bytes": 10,
}
OWN = {**EXPECTED, "disk_written_bytes": 4096}


@pytest.mark.parametrize(("told", "expected"), [(V1, OWN), (V2, EXPECTED)])
def test_the_figures_of_both_versions_of_control_groups_are_understood(told, expected):
    assert shell.figures(told) == expected


def test_a_command_that_would_not_bear_it_has_no_shell_around_it():
    def fitting(*argv: str, entrypoint=(), **options) -> str | None:
        one = Launch(
            id="x", task="t", task_id="x", spec=ContainerSpec(**options), argv=argv, env={}, payload=None, labels={}
        )
        return shell.fitting(one, None if entrypoint is None else shell.Program(entrypoint))

    assert fitting("ffmpeg") == "/bin/sh"
    assert fitting("/usr/bin/bash", "-c", "x") == "/usr/bin/bash"
    assert fitting("x", entrypoint=("/entry.sh",)) == "/bin/sh"
    assert fitting("x", entrypoint=None) is None
    assert fitting() is None
    for options in ({"init": False}, {"pids": 1}, {"stop_signal": "SIGINT"}, {"stop_signal": "SIGRTMIN+3"}):
        assert fitting("ffmpeg", **options) is None
    assert fitting("x", entrypoint=("/init",)) is None
    assert fitting("ffmpeg", init=True, pids=2, stop_signal="SIGHUP") == "/bin/sh"
