"""Images without a shell: a command is put under one to be measured, and runs without where there is none."""

import uuid
from collections.abc import Iterator

import msgspec
import pytest
from podruns import IMAGE, Running, launch

from cellwork.errors import InvalidSpec
from cellwork_worker.executors.kubernetes import manifest
from cellwork_worker.launch import Launch

#: One for each process of the tests.
SHELLLESS = f"cellwork-tests/shellless:{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module", autouse=True)
def image(engine) -> Iterator[None]:
    """Has Python, and no ``/bin/sh``."""
    bare = engine.containers.create(IMAGE, ["python3", "-c", "import os; os.remove('/bin/sh')"], user="0")
    try:
        bare.start()
        assert bare.wait()["StatusCode"] == 0
        repository, tag = SHELLLESS.split(":")
        bare.commit(repository, tag)
    finally:
        bare.remove(force=True)
    yield
    engine.images.remove(SHELLLESS, force=True)


def command(code: str, program: str = "python3") -> Launch:
    """`code`: what stands behind `-c`."""
    return msgspec.structs.replace(launch("", image=SHELLLESS, entrypoint=[program]), argv=("-c", code))


FAILS = "print('once'); raise SystemExit(3)"


def test_a_command_runs_without_the_shell_that_its_image_has_not_and_the_next_one_at_once(executor, server):
    asked = []
    for _ in range(2):
        before = server.requests["POST pods"]
        ended = (run := Running(executor, command(FAILS))).exit()
        assert (ended.code, run.output, ended.used, ended.adopted) == (3, b"once\n", {}, False)
        asked.append(server.requests["POST pods"] - before)
    assert asked[0] >= 2  # more, while the first one is being deleted
    assert asked[1] == 1


def test_many_may_meet_such_an_image_at_the_same_moment(executor):
    runs = [Running(executor, command(FAILS)) for _ in range(4)]
    assert [(run.exit().code, run.output) for run in runs] == [(3, b"once\n")] * 4


def test_a_program_that_is_not_there_either_is_said_in_the_kubelets_words(executor):
    with pytest.raises(InvalidSpec, match=r"(?s)cannot start its program: .*no such file or directory"):
        Running(executor, command("", program="/no/such")).exit()


def test_what_a_worker_that_ended_has_put_under_a_shell_runs_without(executor, server):
    assert Running(executor, command(FAILS)).exit().code == 3  # its image is known by now
    one = command(FAILS)
    executor._api.create_pod(executor.namespace, manifest.pod(one))
    run = Running(executor, one)
    ended = run.exit()
    assert (ended.code, run.output, ended.adopted) == (3, b"once\n", True)
