"""The runner, as a real process under every Python that is here, without an executor around it."""

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from waiting import wait_until

from cellwork import outcome
from cellwork_worker.bootstrap import LOADER, program
from cellwork_worker.executors.docker.stream import READY
from cellwork_worker.frames import Frame, FrameParser

NONCE = "ab" * 16

#: docs/protocol.md has it.
NO_TASK = b"\ncellwork: standard input ended before the task came; nothing was run\n"
PYTHONS = sorted({p for v in range(8, 15) if (p := shutil.which(f"python3.{v}"))})


def _usable(python: str) -> bool:
    """A name on the path may be a version manager's stub."""
    return subprocess.run([python, "-c", "pass"], capture_output=True, check=False).returncode == 0


#: Without the packages of the virtual environment that the tests run in: neither celery nor cellwork.
BARE = str(Path(sys.base_prefix) / "bin" / "python3")

#: The first one has both.
INTERPRETERS = [sys.executable, BARE, *(p for p in PYTHONS if _usable(p))]


@dataclass
class Ran:
    """What came out."""

    code: int = 0
    output: bytes = b""
    errors: bytes = b""
    frames: list[Frame] = field(default_factory=list)

    @property
    def outcome(self) -> outcome.Outcome:
        """The last frame's."""
        assert self.frames[-1].kind == "outcome", self.frames
        return outcome.parse(self.frames[-1].data)


def part(header: object, data: bytes = b"") -> bytes:
    head = json.dumps(header).encode()
    return struct.pack(">QI", 4 + len(head) + len(data), len(head)) + head + data


def ahead(sources: dict[str, str], code: str = "ship", preload: tuple[str, ...] = ()) -> bytes:
    """What of a payload comes before the task."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        for name, text in sources.items():
            bundle.writestr(name, text)
    return program() + part({"code": code, "preload": preload}, archive.getvalue())


def task(function: str = "tasks.run", **header: object) -> bytes:
    module, _, qualname = function.partition(".")
    return part(
        {
            "nonce": NONCE,
            "task": {"id": "an-id", "name": "shop.run", "retries": 1, "max_retries": 3},
            "target": {"module": module, "qualname": qualname, "bind": False},
            "args": [],
            "kwargs": {},
            "soft_time_limit": None,
            "time_limit": None,
            "result_max_bytes": 1 << 20,
            **header,
        }
    )


def payload(sources: dict[str, str], function: str = "tasks.run", code: str = "ship", **header: object) -> bytes:
    return ahead(sources, code) + task(function, **header)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where the runner unpacks: outside of a sandbox nobody else cleans up."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def start(python: str = BARE, *arguments: str) -> "subprocess.Popen[bytes]":
    pipe, env = subprocess.PIPE, {"PATH": os.defpath, "TMPDIR": os.environ["TMPDIR"]}
    return subprocess.Popen([python, "-c", LOADER, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, env=env)


def finish(process: "subprocess.Popen[bytes]", data: bytes | None = None) -> Ran:
    out, err = process.communicate(data, timeout=60)
    ran = Ran(process.returncode)
    for stream, raw in (("output", out), ("errors", err)):
        parser = FrameParser(NONCE, 10 << 20)
        items = [*parser.feed(raw), parser.close()]
        setattr(ran, stream, b"".join(item for item in items if isinstance(item, bytes)))
        ran.frames = [item for item in items if isinstance(item, Frame)] if stream == "output" else ran.frames
    return ran


def run(body: str, python: str = BARE, **header: object) -> Ran:
    return finish(start(python), payload({"tasks.py": body}, **header))


@pytest.fixture(params=INTERPRETERS, ids=lambda path: os.path.basename(path))
def python(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_values_go_in_and_come_back_on_every_python(python):
    values = [1, "ü", {"__type__": "date", "__value__": "2026-11-23"}, {"__type__": "base64", "__value__": "/w=="}]
    values += [{"__type__": "decimal", "__value__": "1.0"}, {"__type__": "uuid", "__value__": {"hex": "0" * 32}}]
    ran = run("def run(*values): return list(values)", python, args=values)
    assert ran.outcome == outcome.Success(outcome.loads(json.dumps(values)))
    assert ran.code == 0


def test_a_module_with_celery_and_cellwork_at_its_top_is_imported_without_either(python):
    ran = run(
        """
from celery import Celery, shared_task, chain, group, signals
from celery.exceptions import SoftTimeLimitExceeded, Ignore
from celery.schedules import crontab
from celery.utils.log import get_task_logger
from kombu import Queue
from cellwork import configure, command, current, image_imports
from cellwork.errors import SandboxLost
with image_imports():
    import nowhere.at.all as nowhere
    from nowhere import thing
app = configure(Celery("x", broker="redis://x"), memory="1g")
app.conf.update(a=1)
app.conf.beat_schedule = {"x": {"schedule": crontab(minute=1)}}
app.autodiscover_tasks()
log = get_task_logger(__name__)
@signals.task_prerun.connect
def hook(**kwargs): pass
@app.on_after_configure.connect
def periodic(sender, **kwargs): pass
@shared_task
def other(): return "other"
@app.task(image="x", autoretry_for=(SandboxLost,))
def run(hint: "thing.X" = None): return [other(), current.id, current.retries, hook is not None]
""",
        python,
    )
    assert ran.outcome == outcome.Success(["other", "an-id", 1, True])


def test_using_a_broker_inside_a_sandbox_says_why_there_is_none():
    ran = run("from celery import shared_task\n@shared_task\ndef other(): pass\ndef run(): other.delay()")
    assert isinstance(ran.outcome, outcome.Failure)
    assert "a sandbox has no broker" in ran.outcome.text


def test_a_library_whose_attributes_import_is_left_alone():
    lazy = "def __getattr__(name):\n    import lazy.inner\n    raise AttributeError(name)\n"
    sources = {"lazy/__init__.py": lazy, "lazy/inner.py": "", "tasks.py": "import lazy\ndef run():\n"}
    sources["tasks.py"] += "    return hasattr(lazy, 'x')"
    assert finish(start(), payload(sources)).outcome == outcome.Success(False)


def test_a_package_of_several_modules_is_imported():
    sources = {"shop/__init__.py": "", "shop/tasks.py": "from .deep.rates import RATE\ndef run(): return RATE"}
    sources |= {"shop/deep/__init__.py": "", "shop/deep/rates.py": "RATE = 7"}
    target = {"module": "shop.tasks", "qualname": "run", "bind": False}
    assert finish(start(), payload(sources, target=target)).outcome == outcome.Success(7)


@pytest.mark.parametrize("python", INTERPRETERS[:2], ids=["celery installed", "celery not installed"])
def test_a_bound_task_of_a_base_class_has_both(python):
    body = """
from celery import shared_task, Task
class Base(Task):
    @property
    def db(self): return "db"
@shared_task(bind=True, base=Base)
def run(self): return [self.db, self.request.id, self.request.retries]
"""
    target = {"module": "tasks", "qualname": "run", "bind": True}
    assert run(body, python, target=target).outcome == outcome.Success(["db", "an-id", 1])
    retrying = body.replace("return [", "raise self.retry(countdown=1, exc=KeyError()); return [")
    assert isinstance(run(retrying, python, target=target).outcome, outcome.RetryRequest)


def test_a_long_outcome_comes_in_parts_and_an_open_line_stays_as_it_was():
    ran = run("import sys\ndef run():\n    sys.stdout.write('open'); return 'x\"' * 100000")
    assert ran.outcome == outcome.Success('x"' * 100000)
    assert ran.output == b"open"


def test_progress_is_sent_and_final_states_are_refused():
    body = "from cellwork import current\ndef run():\n    current.update_state(state='HALF', meta={'n': 1})\n"
    ran = run(body + "    current.update_state(state='SUCCESS')")
    assert ran.frames[0] == Frame("state", {"state": "HALF", "meta": {"n": 1}})
    assert isinstance(ran.outcome, outcome.Failure)
    assert ran.outcome.type == "builtins.ValueError"


def test_progress_is_called_alike_in_a_sandbox_and_in_the_worker():
    """`current.update_state(state, meta)`: Celery's own, which `self` of a bound task has, takes an id first."""
    ran = run("from cellwork import current\ndef run(): current.update_state('HALF', {'n': 1})")
    assert ran.frames[0] == Frame("state", {"state": "HALF", "meta": {"n": 1}})


def test_the_deadline_is_a_time_on_every_python(python):
    body = "from cellwork import current\ndef run(): return current.deadline.utcoffset().total_seconds()"
    assert run(body, python, time_limit=60).outcome == outcome.Success(0.0)


def test_retry_is_an_outcome_with_its_options_and_its_reason():
    ran = run("from cellwork import current\ndef run(): current.retry(exc=KeyError('x'), countdown=3, args=[1])")
    assert isinstance(ran.outcome, outcome.RetryRequest)
    assert (ran.outcome.options.countdown, ran.outcome.options.args) == (3, [1])
    assert ran.outcome.error is not None
    assert ran.outcome.error.type == "builtins.KeyError"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("{'rows': [1, {'price': object()}]}", r"$.rows[1].price is of type builtins.object"),
        ("float('nan')", "$ is nan"),
        ("{(1, 2): 3}", "a key of $ is (1, 2)"),
        ("{1, 2}", "$ is of type builtins.set"),
    ],
)
def test_a_value_that_json_cannot_carry_is_named_by_its_path(value, says):
    ended = run(f"def run(): return {value}").outcome
    assert isinstance(ended, outcome.Invalid)
    assert says in ended.detail


def test_a_value_that_is_too_large_is_named_with_its_size():
    ended = run("def run(): return 'x' * 2000", result_max_bytes=1000).outcome
    assert ended == outcome.TooLarge(2002, 1000)


@pytest.mark.parametrize(
    "exception",
    [
        "def __str__(self): raise SystemExit",
        "def __repr__(self): return 1\n    __str__ = __repr__",
        "args = property(lambda self: 1 / 0)",
        "__module__ = property(lambda self: 1 / 0)",
    ],
)
def test_an_exception_that_misbehaves_is_an_outcome_all_the_same(exception):
    ran = run(f"class Bad(Exception):\n    {exception}\ndef run(): raise Bad('x')")
    assert isinstance(ran.outcome, outcome.Failure)


def test_a_message_of_100_mb_is_cut():
    ended = run("def run(): raise ValueError('x' * (100 << 20))").outcome
    assert isinstance(ended, outcome.Failure)
    assert len(ended.text) + len(ended.traceback) + len(str(ended.args)) < 1 << 20


def test_the_traceback_begins_at_the_tasks_own_frames():
    ended = run("def deep(): return 1 / 0\ndef run(): return deep()").outcome
    assert isinstance(ended, outcome.Failure)
    assert "in deep" in ended.traceback
    assert "_cellwork_runner" not in ended.traceback


def test_the_soft_limit_is_raised_in_the_body():
    body = "import time\nfrom celery.exceptions import SoftTimeLimitExceeded\ndef run():\n    try: time.sleep(60)\n"
    ran = run(body + "    except SoftTimeLimitExceeded: return 'noticed'", soft_time_limit=0.3)
    assert ran.outcome == outcome.Success("noticed")


def test_sigterm_runs_finally_blocks_and_gives_no_outcome():
    process = start()
    body = "import time\ndef run():\n    try:\n        print('in', flush=True)\n        time.sleep(60)\n"
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(payload({"tasks.py": body + "    finally: print('clean', flush=True)"}))
    process.stdin.flush()
    assert process.stdout.readline() == b"in\n"
    process.send_signal(signal.SIGTERM)
    ran = finish(process)
    assert ran.output == b"clean\n"
    assert ran.frames == []
    assert ran.code == 128 + signal.SIGTERM


def test_a_short_task_imports_nothing_that_is_slow_to_import(python):
    command = [python, "-c", "import sys; print(*sys.modules)"]
    before = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ran = run("import sys\ndef run(): return list(sys.modules)", python)
    slow = {"json", "re", "enum", "collections", "functools", "threading", "signal", "typing"}
    assert {*ran.outcome.value} & slow <= {*before}


def test_a_runner_that_comes_as_source_alone_is_compiled_there(monkeypatch):
    sources = program(ready=False)
    assert len(sources) < len(program()) / 2
    monkeypatch.setitem(globals(), "program", lambda: sources)
    assert run("def run(): return 1").outcome == outcome.Success(1)


@pytest.mark.parametrize(
    "given",
    [b"", program()[:3], program()[:1000], program(), ahead({}), ahead({}) + task()[:100]],
    ids=["nothing", "a length", "half of its code", "its code", "the bundle", "half of the task"],
)
def test_a_runner_whose_worker_left_before_the_task_had_come_ends_by_itself(given):
    ran = finish(start(), given)
    assert ran.code == 75, "docs/protocol.md"
    assert ran.output == NO_TASK


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGURG], ids=["by its alarm", "as it is asked"])
@pytest.mark.parametrize("given", [b"", ahead({})], ids=["without its code", "with its code"])
def test_a_runner_whose_task_does_not_come_gives_up_and_says_so(number, given):
    process = start(BARE, "warm")
    process.stdin.write(given)
    process.stdin.flush()
    if given:
        assert process.stdout.read(len(READY)) == READY
    # Its own alarm would come after a minute.
    wait_until(lambda: process.poll() is not None or catches(process.pid, number), what="the runner to wait")
    process.send_signal(number)
    assert process.stdout.read() == NO_TASK
    assert process.wait() == 75
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def test_a_runner_whose_worker_left_without_its_code_ends_with_the_same_status_where_nobody_listens():
    process = start()
    wait_until(lambda: catches(process.pid, signal.SIGTERM), what="it to wait for its code")
    process.stdout.close()
    process.stdin.close()
    assert process.wait(60) == 75
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_runner_that_is_ended_before_its_code_has_come_ends():
    process = start()
    wait_until(lambda: catches(process.pid, signal.SIGTERM), what="it to wait for its code")
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 128 + signal.SIGTERM


def catches(pid: int, number: int) -> bool:
    """Whether that process has a handler of its own for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_runner_stays_with_its_outcome_until_its_worker_lets_go_of_it():
    process = start()
    feed, process.stdin = process.stdin, None
    assert feed is not None
    with feed:
        feed.write(payload({"tasks.py": "def run(): return 1"}))
        feed.flush()
        with pytest.raises(subprocess.TimeoutExpired) as seen:
            process.communicate(timeout=2.0)
    assert b'"outcome"' in (seen.value.output or b"")
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_bundle_that_points_outside_of_itself_is_refused():
    ran = finish(start(), payload({"../evil.py": "", "tasks.py": "def run(): return 1"}))
    assert isinstance(ran.outcome, outcome.Failure)
    assert "outside" in ran.outcome.text


def test_leaving_the_process_gives_no_outcome_and_threads_do_not_keep_it():
    assert run("import os\ndef run(): os._exit(0)").frames == []
    body = "import threading, time\ndef run():\n    threading.Thread(target=time.sleep, args=(60,)).start()"
    assert run(body).outcome == outcome.Success(None)


def test_sys_exit_and_an_import_error_are_the_bodys_failure():
    for body, kind in (("import sys\ndef run(): sys.exit(3)", "SystemExit"), ("import nowhere", "ModuleNotFoundError")):
        ended = run(body).outcome
        assert isinstance(ended, outcome.Failure)
        assert ended.type == f"builtins.{kind}"


def test_what_is_printed_is_sent_line_by_line_and_logging_shows_level_and_logger(python):
    ran = run(
        """
import sys
def run():
    print("one", flush=False)
    import logging
    logging.getLogger("a.b").info("two")
    logging.getLogger("a.b").debug("not shown")
    return sys.stdout.line_buffering
""",
        python,
    )
    assert ran.outcome == outcome.Success(True)
    assert ran.errors == b"INFO a.b: two\n"


def test_the_logging_that_a_body_configures_wins(python):
    ran = run(
        """
import logging
logging.basicConfig(level=logging.DEBUG, format="mine %(message)s")
def run(): logging.getLogger("a").debug("one")
""",
        python,
    )
    assert ran.errors == b"mine one\n"
