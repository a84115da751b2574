"""The shell around a pod's command, as the shells of images run it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cellwork_worker.executors.kubernetes import shell

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
