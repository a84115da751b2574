"""What a command uses, as a shell around it tells, and that the command does not notice that shell."""

from collections.abc import Callable
from signal import SIGTERM

import pytest

from cellwork.errors import InvalidSpec

pytestmark = pytest.mark.parametrize("kind", ["docker", "kubernetes"], indirect=True, scope="module")

WORKS = "held = bytes(range(256)) * 80_000; sum(range(2_000_000)); print(len(held)); raise SystemExit(7)"
SHOWS_SIGNALS = """
import signal, sys
print([signal.getsignal(s) is signal.SIG_IGN for s in (signal.SIGTERM, signal.SIGHUP)])
signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), sys.exit(5)))
print("ready", flush=True)
while True: signal.pause()
"""


@pytest.fixture
def run(kind, start, launch) -> Callable:
    """A command in an image with Python."""
    image = {"image": "cellwork/python:base"} if kind == "docker" else {}

    def run(*argv: str, entrypoint: list[str] | None = None, **options: object):
        return start(launch(*argv, **image, entrypoint=None if entrypoint is None else tuple(entrypoint), **options))

    return run


@pytest.mark.parametrize("entrypoint", [["python3"], []])
def test_a_command_that_is_all_known_is_measured_by_its_images_shell(run, entrypoint):
    one = run(*(["-c"] if entrypoint else ["python3", "-c"]), WORKS, entrypoint=entrypoint)
    ended = one.exit()
    assert (ended.code, one.stdout, one.stderr) == (7, b"20480000\n", b"")
    assert 0.01 < ended.used["cpu_seconds"] < 30
    assert 20 << 20 < ended.used["peak_memory_bytes"] <= 64 << 20
    assert ended.used["network_received_bytes"] >= 0


@pytest.mark.parametrize("status", [0, 3])
def test_however_short_it_is_it_has_figures(run, status):
    ended = run("sh", "-c", f"exit {status}").exit()
    assert ended.code == status
    assert 0 < ended.used["cpu_seconds"] < 5
    assert 0 < ended.used["peak_memory_bytes"] <= 64 << 20


def test_a_command_that_is_measured_gets_the_signal_that_asks_it_to_end(run, executor):
    one = run("-c", SHOWS_SIGNALS, entrypoint=["python3"], stop_grace=20.0)
    one.wait_output(b"ready")
    executor.stop(one.launch.id, SIGTERM)
    assert one.exit().code == 5
    assert one.stdout == b"[False, False]\nready\nasked\n"


def test_what_is_run_is_the_images_program_and_not_its_shells_of_that_name(run):
    one = run("--version", entrypoint=["echo"])
    assert one.exit().code == 0
    assert b"coreutils" in one.stdout


@pytest.mark.parametrize("program", ["no-such", "/no/such", "/etc/passwd", "/etc"])
def test_a_program_that_cannot_be_run_is_the_specs_fault_also_where_a_shell_would_have_run_it(run, program):
    with pytest.raises(InvalidSpec, match=f"cannot start its program: '{program}' is not there, or not executable"):
        run("x", entrypoint=[program]).exit()


@pytest.mark.parametrize("status", [126, 127])
def test_a_programs_own_status_is_its_own(run, status):
    assert run("-c", f"exit {status}", entrypoint=["bash"]).exit().code == status
    assert run("-c", f"raise SystemExit({status})", entrypoint=["python3"]).exit().code == status


def test_one_that_is_killed_by_itself_was_not_killed_from_outside(run):
    ended = run("-c", "import os; os.kill(os.getpid(), 9)", entrypoint=["python3"]).exit()
    assert (ended.code, ended.killed, ended.oom) == (137, False, False)


def test_its_environment_has_nothing_of_the_shells(run):
    one = run("-c", "import os; print(*os.environ)", entrypoint=["python3"])
    one.exit()
    assert not {b"PWD", b"OLDPWD", b"SHLVL"} & set(one.stdout.split())


def test_where_it_is_to_be_process_1_there_is_no_shell_around_it(run):
    shown = "import os; print(os.getpid(), open('/proc/1/cmdline').read().split('\\0')[0])"
    outside = run("-c", shown, entrypoint=["python3"], init=False)
    assert (outside.exit().code, outside.stdout) == (0, b"1 python3\n")
    inside = run("-c", shown, entrypoint=["python3"])
    assert (inside.exit().code, inside.stdout.split()[1]) == (0, b"/bin/sh")
    assert inside.stdout.split()[0] != b"1"
