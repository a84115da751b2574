"""What a command in a pod uses, as a shell around it tells, and that the command does not notice that shell."""

from collections.abc import Callable
from signal import SIGTERM

import msgspec
import pytest
from podruns import Running, launch

from cellwork.errors import InvalidSpec

WORKS = "held = bytes(range(256)) * 80_000; sum(range(2_000_000)); print(len(held)); raise SystemExit(7)"
SHOWS_SIGNALS = """
import signal, sys
print([signal.getsignal(s) is signal.SIG_IGN for s in (signal.SIGTERM, signal.SIGHUP)])
signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), sys.exit(5)))
print("ready", flush=True)
while True: signal.pause()
"""


@pytest.fixture
def start(executor, cluster) -> Callable[..., Running]:
    def start(*argv: str, **options: object) -> Running:
        one = launch("", **{"image": cluster.image, "pull": "missing", **options})
        return Running(executor, msgspec.structs.replace(one, argv=argv))

    return start


@pytest.mark.parametrize("entrypoint", [["python3"], []])
def test_a_command_that_is_all_known_is_measured_by_its_images_shell(start, entrypoint):
    run = start(*(["-c"] if entrypoint else ["python3", "-c"]), WORKS, entrypoint=entrypoint)
    ended = run.exit()
    assert (ended.code, run.output) == (7, b"20480000\n")
    assert 0.01 < ended.used["cpu_seconds"] < 30
    assert 20 << 20 < ended.used["peak_memory_bytes"] <= 64 << 20


def test_a_command_that_is_measured_gets_the_signal_that_asks_it_to_end(start, executor):
    run = start("-c", SHOWS_SIGNALS, entrypoint=["python3"], stop_grace=20)
    run.wait_output(b"ready")
    executor.stop(run.launch.id, SIGTERM)
    assert run.exit().code == 5
    assert run.output == b"[False, False]\nready\nasked\n"


def test_what_is_run_is_the_images_program_and_not_its_shells_of_that_name(start):
    run = start("--version", entrypoint="echo")
    assert run.exit().code == 0
    assert b"coreutils" in run.output


@pytest.mark.parametrize("program", ["no-such", "/no/such", "/etc/passwd", "/etc"])
def test_a_program_that_cannot_be_run_is_the_specs_fault_also_where_a_shell_would_have_run_it(start, program):
    with pytest.raises(InvalidSpec, match=f"cannot start its program: '{program}' is not there, or not executable"):
        start("x", entrypoint=program).exit()


@pytest.mark.parametrize("status", [126, 127])
def test_a_programs_own_status_is_its_own(start, status):
    assert start("-c", f"exit {status}", entrypoint="bash").exit().code == status
    assert start("-c", f"raise SystemExit({status})", entrypoint="python3").exit().code == status
