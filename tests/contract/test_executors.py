"""What every executor does alike. One suite; an executor that passes it can be given to the supervisor."""

import contextlib
import hashlib
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from waiting import wait_until

from cellwork.errors import InvalidSpec, NotAdoptable, SandboxLost
from cellwork_worker.executors.base import STARTED, STDERR, STDOUT, Abandoned
from cellwork_worker.executors.inline import InlineExecutor
from cellwork_worker.executors.process import ProcessExecutor

#: Generous: what is told apart is "at once" from "when the program ends", which is minutes later.
AT_ONCE = 10


def processes(word: str) -> list[psutil.Process]:
    """Those with `word` in their command line, in sandboxes too."""
    return [p for p in psutil.process_iter(["cmdline"]) if word in " ".join(p.info["cmdline"] or ())]


def test_it_says_that_the_sandbox_runs_once_and_before_any_output(start, launch):
    run = start(launch("sh", "-c", "echo hello; echo there >&2"))
    run.exit()
    assert run.events[0] == (STARTED, b"")
    assert [stream for stream, _ in run.events].count(STARTED) == 1


def test_output_arrives_on_the_stream_it_was_printed_to_and_in_order(kind, start, launch):
    run = start(launch("sh", "-c", "for i in $(seq 1000); do echo out $i; echo err $i >&2; done"))
    run.exit()
    out, err = (text.decode().splitlines() for text in (run.stdout, run.stderr))
    if kind == "kubernetes":
        # A pod's log is one: what was printed to which stream is lost, its order within each is not.
        assert err == []
        out, err = ([line for line in out if line.startswith(word)] for word in ("out", "err"))
    assert out == [f"out {i}" for i in range(1, 1001)]
    assert err == [f"err {i}" for i in range(1, 1001)]


def test_output_arrives_while_the_program_runs(start, launch, executor):
    run = start(launch("sh", "-c", "echo first; sleep 300"))
    run.wait_output(b"first")
    executor.stop(run.launch.id, signal.SIGKILL)
    run.exit()


def test_output_that_is_read_only_after_the_end_is_all_there(launch, executor):
    mark = "brief-" + os.urandom(8).hex()
    got = {STARTED: b"", STDOUT: b"", STDERR: b""}

    def read_late(stream: int, chunk: bytes) -> bool:
        if stream == STARTED:
            wait_until(lambda: not processes(mark), what="the program to end")
        got[stream] += chunk
        return False

    executor.run(
        launch("sh", "-c", "head -c 50000 /dev/zero; head -c 50000 /dev/zero >&2; printf last", mark), read_late
    )
    assert len(got[STDOUT]) + len(got[STDERR]) == 100_004
    assert b"last" in got[STDOUT]


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_exit_status_is_reported(start, launch, status):
    ended = start(launch("sh", "-c", f"exit {status}")).exit()
    assert (ended.code, ended.killed, ended.oom, ended.adopted) == (status, False, False, False)
    assert ended.start_seconds is not None
    assert 0 < ended.start_seconds < 30


@pytest.fixture
def large(kind) -> bytes:
    """A payload that no pipe holds. Pods get theirs in a Secret, which takes less than 1 MiB."""
    # Ends a line: containerd, as Docker, gives a last line that is open with a line feed.
    return os.urandom(1_000_000 if kind == "kubernetes" else 5_000_000) + b"\n"


def test_a_large_payload_arrives_whole(start, launch, large):
    payload = large
    run = start(launch("sh", "-c", f"head -c {len(payload)} | sha256sum", payload=payload))
    assert run.exit().code == 0
    assert run.stdout.split()[0].decode() == hashlib.sha256(payload).hexdigest()


def test_a_program_may_answer_before_it_has_read_its_whole_payload(start, launch, large):
    run = start(launch("head", "-c", str(len(large)), payload=large))
    assert run.exit().code == 0
    # containerd ends a line with a line feed, whatever it ended with.
    assert run.stdout in (large, large.replace(b"\r\n", b"\n"))


def test_a_program_may_print_much_after_it_has_read_a_little(start, launch):
    program = "head -c 4096 >/dev/null; head -c 1000000 /dev/zero; head -c 4995904 >/dev/null; exit 6"
    run = start(launch("sh", "-c", program, payload=bytes(5_000_000)))
    assert run.exit().code == 6
    assert len(run.stdout) == 1_000_000


@pytest.mark.parametrize("program", ["exit 5", "exec <&-; sleep 0.2; exit 5"])
def test_a_program_may_leave_its_payload_unread(start, launch, program):
    assert start(launch("sh", "-c", program, payload=bytes(5_000_000))).exit().code == 5


def test_without_a_payload_standard_input_is_empty(start, launch):
    run = start(launch("sh", "-c", "wc -c"))
    assert run.exit().code == 0
    assert run.stdout.strip() == b"0"


def test_the_environment_is_what_was_launched_and_nothing_of_the_workers(kind, start, launch, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://:canary@broker")
    monkeypatch.setenv("CANARY", "canary")
    asked = {"GREETING": "hello = there\tü", "EMPTY": ""}
    run = start(launch("env", env=asked))
    run.exit()
    seen = dict(line.split("=", 1) for line in run.stdout.decode().splitlines())
    assert {name: seen.get(name) for name in asked} == asked
    assert "canary" not in run.stdout.decode()
    # The kubelet tells every pod where the API server is.
    theirs = ("LC_", "KUBERNETES_") if kind == "kubernetes" else ("LC_",)
    others = {name for name in seen if not name.startswith(theirs)} - set(asked)
    assert others <= {"PATH", "HOME", "TMPDIR", "LANG", "HOSTNAME"}


def test_a_dollar_is_a_dollar_whatever_it_stands_before(start, launch):
    words = ("$$", "$(NAME)", "$$(NAME)", "$$$", "$(no", "a$", "$NAME")
    run = start(launch("sh", "-c", 'printf "%s|" "$VALUE" "$@"', "sh", *words, env={"NAME": "x", "VALUE": "$(NAME)$$"}))
    assert run.exit().code == 0
    assert run.stdout.decode().split("|")[:-1] == ["$(NAME)$$", *words]


def test_a_sandbox_has_a_temporary_folder_that_no_other_sandbox_sees(start, launch):
    for _ in range(2):
        run = start(launch("sh", "-c", 'cd "${TMPDIR:-/tmp}" && ls && echo mine > file && cat file'))
        assert run.exit().code == 0
        assert run.stdout == b"mine\n"


def test_a_complete_outcome_ends_the_run_at_once_although_the_program_sleeps(start, launch):
    begun = time.monotonic()
    mark = "complete-" + os.urandom(8).hex()
    run = start(launch("sh", "-c", "echo outcome; sleep 300", mark), complete=lambda stream, chunk: True)
    assert run.exit().code is None
    assert time.monotonic() - begun < AT_ONCE
    wait_until(lambda: not processes(mark), what="the sandbox to be gone")


def test_after_a_complete_outcome_nothing_more_is_emitted(start, launch):
    run = start(launch("sh", "-c", "while :; do echo x; done"), complete=lambda stream, chunk: True)
    run.exit()
    assert len(run.events) == 2  # that it runs, and the chunk that was the outcome


def test_a_signal_reaches_the_programs_handler(start, launch, executor):
    run = start(launch("sh", "-c", "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done"))
    run.wait_output(b"ready")
    executor.stop(run.launch.id, signal.SIGTERM)
    ended = run.exit()
    assert (ended.code, ended.killed) == (3, False)
    assert b"caught" in run.stdout


def test_a_kill_ends_it_and_is_reported_as_one(start, launch, executor):
    run = start(launch("sh", "-c", "trap '' TERM; echo ready; sleep 300"))
    run.wait_output(b"ready")
    executor.stop(run.launch.id, signal.SIGKILL)
    ended = run.exit(AT_ONCE)
    assert (ended.code, ended.killed) == (137, True)


def test_stopping_what_is_not_there_does_nothing(start, launch, executor):
    executor.stop("cellwork-nobody-0", signal.SIGTERM)
    over = launch("true")
    start(over).exit()
    executor.stop(over.id, signal.SIGKILL)


def test_50_megabytes_of_output_neither_block_nor_stay_in_memory(launch, executor):
    counted = {STARTED: 0, STDOUT: 0, STDERR: 0}
    peak = 0
    process = psutil.Process()
    before = process.memory_info().rss

    def count(stream: int, chunk: bytes) -> bool:
        nonlocal peak
        counted[stream] += len(chunk)
        peak = max(peak, process.memory_info().rss)
        return False

    executor.run(launch("sh", "-c", "head -c 26214400 /dev/zero >&2 & head -c 26214400 /dev/zero; wait"), count)
    assert counted[STDOUT] + counted[STDERR] == 50 << 20
    assert peak - before < 20 << 20


def test_binary_output_is_given_as_it_is(kind, start, launch):
    run = start(launch("sh", "-c", r"printf '\000\377\r\n\200\303'; printf '\001\000\000\000' >&2"))
    run.exit()
    out, err = b"\x00\xff\r\n\x80\xc3", b"\x01\x00\x00\x00"
    if kind == "kubernetes":
        # In one log, line by line; a line that is open at the end may be given a line feed.
        assert all(piece in run.stdout for piece in (b"\x00\xff", b"\x80\xc3", err))
        return
    assert (run.stdout, run.stderr) == (out, err)


def test_a_program_that_closes_its_output_and_runs_on_is_waited_for(start, launch):
    begun = time.monotonic()
    assert start(launch("sh", "-c", "exec >&- 2>&-; sleep 1; exit 7")).exit().code == 7
    assert time.monotonic() - begun > 1


def test_what_a_program_left_running_ends_with_it(start, launch):
    mark = "left-" + os.urandom(8).hex()
    begun = time.monotonic()
    child = f"""sh -c 'echo child; : >"$TMPDIR/up"; while :; do sleep 1; done' {mark}"""
    leader = f'export TMPDIR="${{TMPDIR:-/tmp}}"; {child} & until [ -e "$TMPDIR/up" ]; do sleep 0.01; done; exit 4'
    run = start(launch("sh", "-c", leader))
    assert run.exit().code == 4
    assert run.stdout == b"child\n"
    assert time.monotonic() - begun < AT_ONCE, "the child, which has the output open, was waited for"
    wait_until(lambda: not processes(mark), what="the child to be gone")


def test_a_sweep_ends_what_is_not_live_and_leaves_what_is(start, launch, executor):
    live, dead = (start(launch("sh", "-c", "echo ready; sleep 300")) for _ in range(2))
    for run in (live, dead):
        run.wait_output(b"ready")
    assert executor.sweep({live.launch.id}) == [dead.launch.id]
    with contextlib.suppress(SandboxLost):
        assert dead.exit(AT_ONCE).killed
    executor.stop(live.launch.id, signal.SIGKILL)
    assert live.exit().killed


def test_what_is_kept_is_there_until_it_is_discarded(kind, start, launch, executor):
    kept = msgspec.structs.replace(launch("true"), keep=True)
    start(kept).exit()
    listed = [sandbox for sandbox in executor.sandboxes() if sandbox.id == kept.id]
    assert [(s.worker, s.task_id) for s in listed] == ([("contract", kept.task_id)] if kind != "process" else [])
    executor.discard(kept.id)
    wait_until(lambda: all(s.id != kept.id for s in executor.sandboxes()), what="it to be removed")


def test_an_abandoned_sandbox_runs_on_where_another_can_adopt_it_and_ends_where_nobody_can(
    kind, start, launch, executor
):
    one = msgspec.structs.replace(launch("sh", "-c", "echo ready; sleep 300"), keep=True)
    run = start(one)
    run.wait_output(b"ready")
    executor.abandon(one.id)
    with pytest.raises(Abandoned):
        run.exit(AT_ONCE)
    if kind == "process":
        return
    assert executor.sweep(set()) == []
    again = start(one)
    again.wait_output(b"ready")
    executor.abandon(one.id)
    with pytest.raises(Abandoned):
        again.exit(AT_ONCE)
    executor.discard(one.id)


def test_a_place_is_always_the_same(executor):
    assert executor.place() == executor.place()


def test_four_run_at_once_and_keep_their_output_apart(start, launch):
    runs = [start(launch("sh", "-c", "for i in $(seq 200); do echo $0 $i; done; cat", str(n))) for n in range(4)]
    for number, run in enumerate(runs):
        assert run.exit().code == 0
        assert run.stdout.decode().splitlines() == [f"{number} {i}" for i in range(1, 201)]


def test_runs_leave_no_thread_and_no_open_file(kind, launch, executor):
    def held() -> tuple[int, int]:
        executor.sweep(set())
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    ways = (("true",), None), (("head", "-c", "100000"), b"x" * 100_000), (("sh", "-c", "echo; sleep 300"), None)

    def run(times: int) -> None:
        for number in range(times):
            argv, payload = ways[number % len(ways)]
            executor.run(
                launch(*argv, payload=payload), lambda stream, chunk, all_=argv: "sleep" in all_[-1] and bool(chunk)
            )

    # Made when first needed, and kept. Docker: four threads that remove, a connection each, and two for figures. The
    # emulated cluster is in this process, too: a connection that is kept costs it a thread and both a file.
    kept = {"process": 0, "docker": 6, "kubernetes": 10}[kind]
    run(6)
    before = held()
    run(50 if kind == "process" else len(ways) * (kept + 1))  # what any one way leaves behind is more than that
    wait_until(
        lambda: all(now <= then + kept for now, then in zip(held(), before, strict=True)), what="all to be given back"
    )


def test_the_check_says_what_it_is_and_that_it_works(kind, executor):
    health = executor.check()
    assert health.ok
    assert health.executor == kind
    assert "isolates nothing" in health.detail if kind == "process" else re.search(r"\d+\.\d+", health.detail)


def test_a_process_lives_in_an_empty_folder_that_is_gone_afterwards(start_on, launch):
    run = start_on(ProcessExecutor(), launch("sh", "-c", "pwd; echo $HOME; echo $TMPDIR; ls; : >file; mkdir -m 0 shut"))
    run.exit()
    folder, *same = run.stdout.decode().split()
    assert same == [folder, folder]
    wait_until(lambda: not Path(folder).exists(), what="the folder to be removed")


def test_a_process_runs_the_runner_with_the_workers_own_interpreter(start_on, launch):
    code = "import sys; print(sys.executable, sys.stdin.read())"
    run = start_on(ProcessExecutor(), launch("python3", "-c", code, payload=b"payload"))
    assert run.exit().code == 0
    assert run.stdout.decode() == f"{sys.executable} payload\n"


def test_a_process_takes_the_entry_point_of_the_spec(start_on, launch):
    run = start_on(ProcessExecutor(), launch("world", entrypoint=("echo", "hello")))
    run.exit()
    assert run.stdout == b"hello world\n"


def test_a_process_whose_program_is_missing_is_refused_with_its_name_the_task_and_the_path(start_on, launch):
    with pytest.raises(InvalidSpec, match=r"task tests\.task: .*'no-such-program'.*PATH=") as caught:
        start_on(ProcessExecutor(), launch("no-such-program")).exit()
    assert "executor='docker'" in str(caught.value)


def test_a_process_without_a_command_is_refused(start_on, launch):
    with pytest.raises(InvalidSpec, match="its command is empty"):
        start_on(ProcessExecutor(), launch()).exit()


def test_a_process_that_runs_is_not_adopted(start_on, launch):
    executor = ProcessExecutor()
    first = start_on(executor, launch("sh", "-c", "echo ready; sleep 300"))
    first.wait_output(b"ready")
    with pytest.raises(NotAdoptable, match="cannot be adopted"):
        start_on(executor, first.launch).exit()
    executor.stop(first.launch.id, signal.SIGKILL)
    assert first.exit().killed


def test_a_process_that_crashes_was_not_killed_from_outside(start_on, launch):
    ended = start_on(ProcessExecutor(), launch("sh", "-c", "kill -SEGV $$")).exit()
    assert (ended.code, ended.killed, ended.detail) == (139, False, "SIGSEGV")


def test_a_process_is_killed_when_what_reads_its_output_fails(launch):
    mark = "reader-" + os.urandom(8).hex()

    def fail(stream: int, chunk: bytes) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ProcessExecutor().run(launch("sh", "-c", "sleep 300; :", mark), fail)
    wait_until(lambda: not processes(mark), what="the process to be gone")


def test_inline_calls_the_body_in_this_thread_and_gives_back_what_it_returned(launch):
    inline = msgspec.structs.replace(launch(), body=threading.get_ident)
    ended = InlineExecutor().run(inline, lambda stream, chunk: False)
    assert (ended.code, ended.value) == (0, threading.get_ident())


def test_inline_passes_the_bodys_exception_through(launch):
    def body() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        InlineExecutor().run(msgspec.structs.replace(launch(), body=body), lambda stream, chunk: False)


def test_inline_refuses_a_command(launch):
    with pytest.raises(InvalidSpec, match=r"task tests\.task: .* not commands"):
        InlineExecutor().run(launch("true"), lambda stream, chunk: False)


def test_inline_has_nothing_to_stop_or_to_sweep_and_says_that_it_isolates_nothing():
    executor = InlineExecutor()
    executor.stop("cellwork-nobody-0", signal.SIGKILL)
    assert executor.sweep(set()) == []
    assert executor.check().ok
    assert "isolates nothing" in executor.check().detail
