"""Commands under a shell of their image's: it is that image's program that runs, and nobody notices the shell."""

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from signal import Signals

import dockerruns
import msgspec
import pytest
from dockerruns import BUSYBOX, Output
from waiting import wait_until

from cellwork_worker.executors.base import Abandoned
from cellwork_worker.executors.docker.report import mark


@pytest.fixture
def command(installation) -> Callable:
    return lambda *argv, **options: dockerruns.launch(installation, *argv, **options)


@pytest.fixture
def make_image(engine) -> Iterator[Callable[..., str]]:
    """An image: what a script of the shell leaves of busybox, with changes as in a Dockerfile."""
    made: list[str] = []

    def make(*changes: str, script: str = "true", tag: str | None = None) -> str:
        tag = tag or uuid.uuid4().hex[:12]
        base = engine.containers.create(BUSYBOX, ["sh", "-c", script], user="0")
        try:
            base.start()
            assert base.wait()["StatusCode"] == 0
            engine.api.commit(base.id, "cellwork-tests/figures", tag, changes="\n".join(changes) or None)
        finally:
            base.remove(force=True)
        made.append(f"cellwork-tests/figures:{tag}")
        return made[-1]

    yield make
    for name in set(made):
        engine.images.remove(name, force=True)


GREETS = 'ENTRYPOINT ["echo", "hello"]'


def test_the_images_own_program_runs_with_its_own_arguments_or_the_tasks(make_executor, command, make_image):
    executor, image = make_executor("one"), make_image(GREETS, 'CMD ["you", "there"]')
    for argv, options, printed in (
        ((), {}, b"hello you there\n"),
        (("all",), {}, b"hello all\n"),
        (("printf", "%s", "other"), {"entrypoint": []}, b"other"),
        (("mine",), {"entrypoint": ["echo", "said"]}, b"said mine\n"),
    ):
        seen = Output()
        ended = executor.run(command(*argv, image=image, **options), seen)
        assert (ended.code, seen.text, seen.errors) == (0, printed, b"")
        assert ended.used["cpu_seconds"] > 0


def test_an_image_that_is_built_anew_runs_its_new_program_at_once(make_executor, command, make_image):
    executor, seen, tag = make_executor("one"), Output(), uuid.uuid4().hex[:12]
    for changes in (GREETS, 'ENTRYPOINT ["echo", "farewell"]'):
        assert executor.run(command(image=make_image(changes, tag=tag)), seen).code == 0
    assert seen.text == b"hello\nfarewell\n"


def test_an_image_without_a_shell_is_met_once_and_its_commands_run_without(make_executor, command, make_image, engine):
    executor, image, began = make_executor("one"), make_image(script="rm /bin/sh"), datetime.now(UTC).timestamp()
    for made in (2, 1):
        seen = Output()
        one = command(
            "busybox", "ash", "-c", "i=0; while [ $i -lt 99999 ]; do i=$((i+1)); done; sleep 0.4; echo $i", image=image
        )
        ended = executor.run(one, seen)
        assert (ended.code, seen.text, seen.errors) == (0, b"99999\n", b"")
        # Half a second is enough for the engine to be asked.
        assert ended.used["cpu_seconds"] > 0
        events = engine.api.events(
            since=began,
            until=datetime.now(UTC).timestamp(),
            filters={"event": "create", "container": one.id},
            decode=True,
        )
        assert len(list(events)) == made


def test_what_it_prints_at_its_end_is_whole_and_the_shells_words_are_not_among_it(make_executor, launch):
    executor = make_executor("one")
    for script in ("printf 'no end' >&2", "head -c 300000 /dev/zero >&2; printf last >&2", "printf '\\036' >&2"):
        seen = Output()
        ended = executor.run(launch(script), seen)
        assert seen.errors.endswith((b"no end", b"last", b"\x1e"))
        assert ended.used["cpu_seconds"] > 0


def test_a_command_that_kills_itself_has_failed_and_was_not_killed_from_outside(make_executor, launch, command):
    executor = make_executor("one")
    ended = executor.run(launch("kill -9 $$"), Output())
    assert (ended.code, ended.killed, ended.oom) == (137, False, False)
    # The kernel may kill the shell around it, too.
    assert executor.run(launch("x=$(head -c 100000000 /dev/zero | tail)", memory="16m", pids=8), Output()).oom


def test_whoever_adopts_it_has_its_output_and_its_figures(make_executor, launch):
    first, second, one, seen = (
        make_executor("one"),
        make_executor("two"),
        launch("sleep 2; echo out; echo err >&2"),
        Output(),
    )
    failed: list[BaseException] = []

    def run() -> None:
        try:
            first.run(one, seen)
        except Abandoned as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert seen.started.wait(20)
    first.abandon(one.id)
    thread.join(20)
    assert failed
    seen = Output()
    ended = second.run(one, seen)
    assert (ended.adopted, ended.code, seen.text, seen.errors) == (True, 0, b"out\n", b"err\n")
    assert ended.used["cpu_seconds"] > 0


def test_the_end_of_its_log_is_its_own(make_executor, launch, engine):
    executor, one = make_executor("one"), launch("echo my last words >&2; exit 3")
    kept = msgspec.structs.replace(one, keep=True)
    assert executor.run(kept, Output()).code == 3
    assert mark(one.id).encode() in engine.api.logs(one.id)
    assert executor.tail(one.id, 4096) == b"my last words\n"
    assert executor.tail(one.id, 6) == b"words\n"
    executor.discard(one.id)
    wait_until(lambda: not engine.api.containers(all=True, filters={"name": one.id}), what="it to be removed")


@pytest.mark.parametrize(("signal", "asked"), [("SIGUSR1", "USR1"), ("SIGHUP", "HUP"), ("SIGINT", "INT")])
def test_the_signal_that_asks_it_to_end_is_the_one_that_it_wants(make_executor, launch, signal, asked):
    executor = make_executor("one")
    one, seen = (
        launch(f"trap 'echo asked; exit 9' {asked}; echo ready; while :; do sleep 0.1; done", stop_signal=signal),
        Output(),
    )
    ended = []
    thread = threading.Thread(target=lambda: ended.append(executor.run(one, seen)))
    thread.start()
    wait_until(lambda: b"ready" in seen.text, timeout=20, what="it to be ready")
    executor.stop(one.id, Signals[signal])
    thread.join(20)
    assert (ended[0].code, seen.text) == (9, b"ready\nasked\n")
