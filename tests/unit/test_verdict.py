"""From how a sandbox ended to what Celery sees."""

import sys
import types

import msgspec
import pytest
from celery.exceptions import Ignore, SoftTimeLimitExceeded, TimeLimitExceeded

from cellwork import errors
from cellwork.outcome import Failure, Invalid, TooLarge
from cellwork.spec import ContainerSpec
from cellwork_worker import verdict
from cellwork_worker.executors.base import Exit
from cellwork_worker.launch import Launch

LAUNCH = Launch(
    id="cellwork-x-0",
    task="shop.parse",
    task_id="x",
    spec=ContainerSpec(image="busybox", memory=64 << 20, result="text"),
    argv=("wc", "-l"),
    env={},
    payload=None,
    labels={},
)


def rebuild(kind: str, *args: object, own: str = "nothing", named: tuple[type, ...] = ()) -> Exception:
    failure = Failure(kind, list(args), "its text", "Traceback …\n")
    return verdict.rebuild(failure, lambda module: module == own, named)


@pytest.fixture
def module(monkeypatch):
    """A module of the task's own."""
    made = types.ModuleType("ownmodule")
    monkeypatch.setitem(sys.modules, "ownmodule", made)
    return made


def test_a_builtin_is_rebuilt_with_its_arguments_and_the_remote_traceback():
    error = rebuild("builtins.KeyError", "missing")
    assert type(error) is KeyError
    assert error.args == ("missing",)
    assert "Traceback …" in str(error.__cause__)


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "MemoryError", "BaseException"])
def test_what_would_end_the_worker_stays_data(name):
    error = rebuild(f"builtins.{name}", 1)
    assert type(error) is errors.RemoteTaskError
    assert error.args == (f"builtins.{name}: its text", f"builtins.{name}", [1], "Traceback …\n")


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "builtins.print", "subprocess.Popen", "json.JSONDecodeError", "no.such", "x", ""],
)
def test_what_is_not_the_tasks_own_is_neither_called_nor_rebuilt(name):
    assert type(rebuild(name, "touch /tmp/owned")) is errors.RemoteTaskError


def test_the_tasks_own_class_is_rebuilt_without_running_its_initializer(module):
    class Own(Exception):
        def __init__(self, *args: object) -> None:
            pytest.fail("hostile arguments reached it")

    Own.__module__, Own.__qualname__ = "ownmodule", "Own"
    module.Own = Own
    error = rebuild("ownmodule.Own", "a", own="ownmodule")
    assert type(error) is Own
    assert error.args == ("a",)
    assert type(rebuild("ownmodule.Own", "a")) is errors.RemoteTaskError


def test_looking_a_class_up_runs_no_code_of_the_module(module):
    module.__getattr__ = lambda name: pytest.fail("ran")
    assert type(rebuild("ownmodule.Missing", own="ownmodule")) is errors.RemoteTaskError


def test_a_class_that_the_tasks_options_name_is_rebuilt():
    class Named(Exception):
        pass

    kind = f"{Named.__module__}.{Named.__qualname__}"
    assert type(rebuild(kind, 1, named=(Named,))) is Named


def test_a_builtin_that_does_not_take_these_arguments_stays_data():
    assert type(rebuild("builtins.UnicodeDecodeError", "one")) is errors.RemoteTaskError


def test_celerys_own_exceptions_keep_their_meaning():
    assert type(rebuild("celery.exceptions.Ignore")) is Ignore
    assert type(rebuild("celery.exceptions.SoftTimeLimitExceeded")) is SoftTimeLimitExceeded


@pytest.mark.parametrize(
    ("ended", "kind", "says"),
    [
        (Exit(code=137, oom=True, killed=True), errors.OutOfMemory, "limit of 64 MiB"),
        (Exit(code=1, oom=True), errors.OutOfMemory, "memory="),
        (Exit(code=137, killed=True), errors.SandboxLost, "killed from outside"),
        (Exit(code=137, late=True, detail="Deadline"), TimeLimitExceeded, r"the deadline of its sandbox \(Deadline\)"),
        (Exit(code=143, adopted=True), errors.SandboxLost, "killed from outside"),
        (Exit(code=143, unseen=True), errors.SandboxLost, "killed from outside"),
        (Exit(code=143), errors.NoOutcome, "status 143"),
        (Exit(code=0, unseen=True), errors.SandboxLost, "engine was away"),
        (Exit(code=0), errors.NoOutcome, "status 0"),
        (Exit(code=1, detail="boom"), errors.NoOutcome, r"status 1 \(boom\)"),
    ],
)
def test_a_sandbox_without_an_outcome_is_the_right_error(ended, kind, says):
    error = verdict.lost(LAUNCH, ended, b"last words")
    assert type(error) is kind
    assert "task shop.parse: sandbox cellwork-x-0" in str(error)
    with pytest.raises(kind, match=says):
        raise error


def command(ended: Exit, stdout: bytes = b"", limit: int = 100, **spec: object) -> object:
    import msgspec

    launch = msgspec.structs.replace(LAUNCH, spec=msgspec.structs.replace(LAUNCH.spec, **spec))
    return verdict.command_result(launch, ended, stdout, b"tail", limit)


def test_a_command_that_was_asked_to_end_while_no_worker_saw_it_is_lost():
    with pytest.raises(errors.SandboxLost):
        command(Exit(code=143, adopted=True))
    with pytest.raises(errors.SandboxLost):
        command(Exit(code=130, adopted=True), stop_signal="SIGINT")
    with pytest.raises(errors.CommandFailed):
        command(Exit(code=143))


def test_a_command_that_ran_into_its_sandboxs_deadline_did_not_fail():
    with pytest.raises(TimeLimitExceeded):
        command(Exit(code=143, late=True))


def test_a_commands_output_is_its_result():
    assert command(Exit(code=0), b"12\n") == "12\n"
    assert command(Exit(code=0), b'{"a": 1}', result="json") == {"a": 1}
    assert command(Exit(code=0), b"x", result="none") is None


def test_json_of_a_command_revives_no_types():
    document = b'{"__type__": "bytes", "__value__": "x"}'
    assert command(Exit(code=0), document, result="json") == {"__type__": "bytes", "__value__": "x"}


@pytest.mark.parametrize(
    ("ended", "stdout", "kind"),
    [
        (Exit(code=2), b"", errors.CommandFailed),
        (Exit(code=137, killed=True), b"", errors.SandboxLost),
        (Exit(code=137, oom=True), b"", errors.OutOfMemory),
        (Exit(code=0), b"\xff", errors.InvalidResult),
        (Exit(code=0), b"x" * 101, errors.ResultTooLarge),
    ],
)
def test_a_command_that_went_wrong_is_the_right_error(ended, stdout, kind):
    with pytest.raises(kind):
        command(ended, stdout)


def test_what_cannot_be_taken_is_named():
    assert "$.lock" in str(verdict.error(LAUNCH, Invalid("$.lock is a lock")))
    assert "9 bytes" in str(verdict.error(LAUNCH, TooLarge(9, 8)))


NO_TASK = b"\ncellwork: standard input ended before the task came; nothing was run\n"


@pytest.mark.parametrize(
    ("ended", "tail"),
    [
        (Exit(code=75), NO_TASK),
        (Exit(code=75, adopted=True), b"printed by an import" + NO_TASK),
        # Its engine ended as well, and lost what it printed.
        (Exit(code=75, adopted=True), b""),
        (Exit(code=75, unseen=True), b""),
        # Ended before its program had begun.
        (Exit(code=2, adopted=True), b""),
    ],
)
def test_a_sandbox_that_never_got_its_task_is_lost(ended, tail):
    launch = msgspec.structs.replace(LAUNCH, payload=b"payload")
    lost = verdict.lost(launch, ended, tail)
    assert lost.infrastructure
    assert "got no task" in str(lost)


@pytest.mark.parametrize(
    ("ended", "tail"),
    [
        (Exit(code=75), b""),
        (Exit(code=75, adopted=True), b"printed"),
        (Exit(code=75), NO_TASK + b"more"),
        (Exit(code=1), NO_TASK),
        (Exit(code=2), b""),
        (Exit(code=2, adopted=True), b"usage: convert FILE"),
    ],
)
def test_a_body_that_ends_with_the_status_of_a_sandbox_without_a_task_is_not_lost(ended, tail):
    launch = msgspec.structs.replace(LAUNCH, payload=b"payload")
    assert not verdict.lost(launch, ended, tail).infrastructure


@pytest.mark.parametrize("usage", [None, {}, {"oom_kills": 0}, {"oom_kills": "9"}, {"oom_kills": [1]}, "killed"])
def test_a_body_that_raised_was_not_short_of_memory_unless_its_runner_says_so(usage):
    assert verdict.short_of_memory(LAUNCH, Failure("builtins.ValueError"), usage) is None
