"""The bill of every run: in Redis soon after it, in the task's events, and on the command line."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from celery import Celery
from celery.exceptions import TimeLimitExceeded
from conftest import PROJECT
from waiting import wait_until

from cellwork import configure, usage
from cellwork.broker import Broker
from cellwork.errors import NoOutcome, OutOfMemory
from cellwork.usage import Run
from cellwork.usagestore import UsageStore

TIMEOUT = 60
MIB = 1 << 20


def run(**fields) -> Run:
    known = {
        "task": "shop.parse",
        "task_id": "an-id",
        "sandbox": "cellwork-an-id-0",
        "executor": "docker",
        "worker": "w@test",
        "host": "test",
        "queue": "docker",
        "outcome": "success",
        "ended": time.time(),
    }
    return Run(**{**known, **fields})


@pytest.fixture
def store(broker, request):
    """One that nothing else writes to."""
    app = Celery("usage", set_as_current=False)
    app.conf.cellwork = {"installation": f"usage-{request.node.name}"}
    client = Broker(app)
    yield UsageStore(client)
    client.client.delete(*client.client.scan_iter(match=client.key("*")))
    client.close()


@pytest.fixture
def worker_store(shop):
    client = Broker(shop.app.app)
    yield UsageStore(client)
    client.close()


def cellwork(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cellwork", "usage", "-A", "shop.app", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)


def test_a_summary_adds_up_and_spreads(store):
    store.add([run(run_seconds=float(n), cpu_seconds=0.5, peak_memory_bytes=n << 20) for n in range(1, 101)])
    store.add([run(outcome="out-of-memory", memory_bytes=1 << 30, run_seconds=10.0)])
    (found,) = store.summaries()
    assert (found.task, found.runs, found.failed) == ("shop.parse", 101, 1)
    assert found.cpu_seconds == pytest.approx(50)
    assert found.run_seconds == pytest.approx(5060)
    assert found.memory_gib_seconds == pytest.approx(10)
    assert found.quantiles["run_seconds"].p50 == pytest.approx(50, rel=0.1)
    assert found.quantiles["run_seconds"].max == pytest.approx(100, rel=0.1)
    assert found.quantiles["peak_memory_bytes"].p95 == pytest.approx(95 << 20, rel=0.1)
    assert "start_seconds" not in found.quantiles


def test_old_runs_fade_from_the_distribution_and_stay_in_the_sums(store):
    store.add([run(run_seconds=1000.0)])
    store.add([run(run_seconds=1.0) for _ in range(1100)])
    (found,) = store.summaries("shop.parse")
    assert found.runs == 1101
    assert found.quantiles["run_seconds"].max < 1.1, "the one long run was halved away"
    assert found.quantiles["run_seconds"].count < 700


def test_only_the_tasks_that_ran_last_have_a_summary(store):
    store.add([run(task=f"task{n}", ended=float(n)) for n in range(1_003)])
    assert len(store.summaries()) == 1_000
    assert store.summaries("task0") == []
    assert len(store.summaries("task1002")) == 1


def test_runs_are_found_by_time_and_task(store):
    now = time.time()
    store.add([run(ended=now - 60), run(task="shop.other"), run(task_id="late")])
    assert [one.task_id for one in store.runs(now - 1, "shop.parse")] == ["late"]
    assert len(list(store.runs())) == 3


def run_of(store: UsageStore, task_id: str) -> Run:
    """The last one of that task."""
    found = []
    wait_until(lambda: found.extend(r for r in store.runs() if r.task_id == task_id) or found, what="its usage")
    return found[-1]


def test_a_run_is_told_with_all_that_is_known_of_it(tasks, worker_store, engine):
    result = tasks.busy.delay(0.3, 40 << 20)
    assert result.get(timeout=TIMEOUT) is None
    run = run_of(worker_store, result.id)
    assert (run.task, run.outcome, run.executor, run.queue) == ("shop.tasks.busy", "success", "docker", "docker")
    assert (run.worker, run.image, run.route) == ("shared@test", "cellwork/python:base", "docker")
    assert run.reason
    image = engine.images.get("cellwork/python:base")
    assert (run.image_digest, run.image_bytes) == (image.id, image.attrs["Size"])
    assert run.start in ("cold", "warm")
    assert 0.2 < run.cpu_seconds < 30
    assert 40 << 20 < run.peak_memory_bytes < 128 << 20
    assert run.memory_bytes == 128 << 20
    assert run.run_seconds > 0.25
    assert run.start_seconds > 0
    assert run.queue_seconds >= 0
    assert time.time() - run.ended < TIMEOUT


def test_the_result_says_what_its_sandbox_used(tasks, worker_store):
    result = tasks.busy.delay(0.1, MIB)
    result.get(timeout=TIMEOUT)
    run, told = run_of(worker_store, result.id), result.backend.get_task_meta(result.id)["cellwork"]
    for name in ("executor", "sandbox", "image", "image_digest", "host", "start", *usage.MEASURES):
        assert told.get(name) == getattr(run, name), name


def test_the_memory_of_all_its_processes_is_counted_together(tasks, worker_store):
    result = tasks.crowd.delay(3, 20 * MIB)
    result.get(timeout=TIMEOUT)
    assert 60 * MIB < run_of(worker_store, result.id).peak_memory_bytes < 128 * MIB


def test_what_goes_through_network_and_disk_is_counted(tasks, worker_store, gateway):
    with swallowing(gateway) as address:
        result = tasks.writes.apply_async((MIB, address), network="bridge", read_only=False)
        result.get(timeout=TIMEOUT)
    run = run_of(worker_store, result.id)
    assert MIB < run.network_sent_bytes < 2 * MIB
    assert 0 < run.network_received_bytes < MIB
    assert MIB <= run.disk_written_bytes < 4 * MIB


def test_a_commands_bill_is_what_its_shell_reads(commands, worker_store):
    script = """
        dd if=/dev/zero of=/tmp/held bs=1M count=20
        end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do :; done"""
    long, short = commands.script.delay(script), commands.script.delay("true")
    for result in (long, short):
        result.get(timeout=TIMEOUT)
    run = run_of(worker_store, long.id)
    assert 0.3 < run.cpu_seconds < 10
    assert 20 * MIB <= run.peak_memory_bytes < 40 * MIB
    run = run_of(worker_store, short.id)
    assert 0 < run.cpu_seconds < 1
    assert 0 < run.peak_memory_bytes < 20 * MIB
    assert run.network_sent_bytes == 0


def test_what_is_killed_or_crashes_is_billed_as_its_engine_saw_it_last(tasks, commands, worker_store):
    for ends in (
        commands.script.apply_async(("trap '' TERM; while :; do :; done",), time_limit=5),
        tasks.busy.apply_async((60, 20 * MIB), time_limit=5),
        tasks.busy_and_gone.apply_async((3.0,)),
    ):
        with pytest.raises((TimeLimitExceeded, NoOutcome)):
            ends.get(timeout=TIMEOUT)
        run = run_of(worker_store, ends.id)
        assert 0.2 < run.cpu_seconds < 10
        assert 0 < run.peak_memory_bytes < 60 * MIB


def test_what_a_command_sends_and_writes_is_counted_however_short_it_is(commands, worker_store, gateway):
    with swallowing(gateway) as (host, port):
        script = f"head -c {MIB} /dev/zero | nc {host} {port}; dd if=/dev/zero of=/file bs={MIB} count=1 conv=fsync"
        result = commands.script.apply_async((script,), network="bridge", read_only=False, user="0")
        result.get(timeout=TIMEOUT)
    run = run_of(worker_store, result.id)
    assert MIB < run.network_sent_bytes < 2 * MIB
    assert 0 < run.network_received_bytes < MIB
    assert MIB <= run.disk_written_bytes < 4 * MIB


@contextmanager
def swallowing(host: str) -> Iterator[tuple[str, int]]:
    """An address of that host where one neighbour is listened to, and nothing is answered."""

    def swallow() -> None:
        neighbour, _ = server.accept()
        with neighbour:
            while neighbour.recv(1 << 16):
                pass

    with socket.create_server((host, 0)) as server:
        thread = threading.Thread(target=swallow)
        thread.start()
        yield server.getsockname()
        thread.join()


def test_a_failure_of_each_kind_is_told_by_its_kind(tasks, commands, worker_store):
    failed = tasks.fail_builtin.delay("no")
    status = commands.status.delay(3)
    for result in (failed, status):
        result.get(timeout=TIMEOUT, propagate=False)
    assert run_of(worker_store, failed.id).outcome == "task-error"
    run = run_of(worker_store, status.id)
    assert (run.outcome, run.exit_status) == ("command-failed", 3)


def test_a_run_that_is_killed_for_memory_peaked_at_its_limit(hostile, worker_store):
    result = hostile.eats_memory.apply_async(memory="32m")
    with pytest.raises(OutOfMemory):
        result.get(timeout=TIMEOUT)
    run = run_of(worker_store, result.id)
    assert (run.outcome, run.peak_memory_bytes) == ("out-of-memory", 32 << 20)


def test_a_revoked_run_and_one_past_its_limit_are_told_apart(tasks, shop, worker_store):
    late = tasks.sleep.apply_async((60,), time_limit=1)
    late.get(timeout=TIMEOUT, propagate=False)
    assert run_of(worker_store, late.id).outcome == "time-limit"
    revoked = tasks.sleep.delay(60)
    wait_until(lambda: revoked.state == "STARTED", what="the task to start")
    revoked.revoke(terminate=True, signal="SIGKILL")
    assert run_of(worker_store, revoked.id).outcome == "revoked"


def test_an_inline_task_has_no_bill(tasks, worker_store):
    inline, after = tasks.inline.delay(), tasks.echo.delay(1)
    inline.get(timeout=TIMEOUT)
    after.get(timeout=TIMEOUT)
    run_of(worker_store, after.id)
    assert [run for run in worker_store.runs() if run.task_id == inline.id] == []


def test_the_command_line_shows_the_bill(tasks, worker_store):
    result = tasks.echo.delay(1)
    result.get(timeout=TIMEOUT)
    run_of(worker_store, result.id)
    (summary,) = json.loads(cellwork("shop.tasks.echo", "--json").stdout)["tasks"]
    assert summary["task"] == "shop.tasks.echo"
    assert summary["runs"] >= 1
    since = json.loads(cellwork("--since", "10m", "--json").stdout)
    assert result.id in [run["task_id"] for run in since["runs"]]
    assert since["queues"]["docker"]["runs"] >= 1
    assert "shop.tasks.echo" in cellwork().stdout
    assert "QUEUE" in cellwork("--since", "1h").stdout
    assert cellwork("nobody").stdout == "no runs of nobody\n"


def test_a_table_of_prices_makes_a_cost_of_it(worker_store, tmp_path):
    hour = {"run_seconds": 3600.0, "cpu_seconds": 1800.0, "memory_bytes": 2 << 30, "gpus": 1, "queue": "priced"}
    worker_store.add([run(task="shop.priced", network_sent_bytes=1 << 29, **hour) for _ in range(2)])
    table = tmp_path / "prices.toml"
    table.write_text(
        'currency = "EUR"\ncpu_hour = 0.04\nmemory_gib_hour = 0.005\ngpu_hour = 2\nnetwork_gib = 0.1\nrun = 1\n'
    )
    expected = pytest.approx(2 * (0.5 * 0.04 + 2 * 0.005 + 2 + 0.5 * 0.1 + 1))
    (summary,) = json.loads(cellwork("shop.priced", "--json", "--prices", str(table)).stdout)["tasks"]
    assert summary["cost"] == expected
    since = json.loads(cellwork("shop.priced", "--since", "1h", "--json", "--prices", str(table)).stdout)
    assert since["queues"]["priced"]["cost"] == expected
    shown = cellwork("shop.priced", "--since", "1h", "--prices", str(table)).stdout
    costs = [line.split()[-1] for line in shown.splitlines() if line.startswith(("shop.priced", "all", "priced"))]
    assert costs == ["6.16"] * 3
    assert shown.count("COST EUR") == 2
    table.write_text("cpu_hours = 1\n")
    refused = cellwork("--prices", str(table))
    assert refused.returncode == 2
    assert "`cpu_hours`" in refused.stderr
    assert "numbers: cpu_hour" in refused.stderr


def test_the_bill_can_be_drawn(worker_store, tmp_path):
    worker_store.add([run(task="shop.$drawn", run_seconds=1.0, cpu_seconds=0.4, peak_memory_bytes=MIB)])
    drawn = tmp_path / "bill.png"
    assert "shop.$drawn" in cellwork("--plot", str(drawn)).stdout
    assert drawn.read_bytes().startswith(b"\x89PNG")
    refused = cellwork("--plot", str(tmp_path / "bill.poem"))
    assert refused.returncode == 1
    assert "bill.poem" in refused.stderr


@pytest.fixture
def learned(broker, monkeypatch, request):
    """An application that learns, and the usage of its tasks so far."""
    monkeypatch.delenv("CELERY_BROKER_URL")  # they would win
    monkeypatch.delenv("CELERY_RESULT_BACKEND")
    app = configure(
        Celery("learns", set_as_current=False), installation=request.node.name, heavy={"memory": "1g"}, unserved="off"
    )
    app.conf.update(broker_url=f"{broker}/0", result_backend=f"{broker}/1", task_default_queue="learns")
    client = Broker(app)
    UsageStore(client).add(
        [run(task="big", peak_memory_bytes=2 << 30, run_seconds=1.0, cpu_seconds=0.9) for _ in range(30)]
    )
    yield app
    client.client.delete(*client.client.scan_iter(match=client.key("*")), "learns", "kubernetes")
    client.close()
    app.close()


def test_a_task_that_learns_asks_for_what_its_runs_used_and_is_heavy_by_that(learned):
    def sent(queue: str, **options) -> dict | None:
        with learned.connection_for_write() as connection:
            channel = connection.default_channel
            channel.queue_purge("learns")  # of what was light before anything was known
            learned.send_task("big", **options)
            message = channel.basic_get(queue, no_ack=True)
            return message and message.headers["cellwork"]

    assert sent("learns")["spec"] == {}, "only a suggestion"
    assert sent("learns", learn="on")["spec"] == {"learn": "on"}, "nothing is known yet, and nobody waits"
    header = wait_until(lambda: sent("kubernetes", learn="on"), what="a look at what it used")
    assert 2.4 * 2**30 < header["spec"]["memory"] < 2.9 * 2**30
    assert header["spec"]["cpus"] == 1.0
    assert header["route"]["reason"].endswith("> 1 GiB, as its runs used")
    said = sent("learns", learn="on", memory="64m", executor="docker")
    assert (said["spec"]["memory"], said["spec"]["cpus"]) == (64 << 20, 1.0)
    assert sent("learns", learn="on", memory_max="512m", executor="docker")["spec"]["memory"] == 512 << 20


def test_the_command_line_tells_what_to_write(shop, worker_store):
    worker_store.add(
        [run(task="shop.sized", peak_memory_bytes=50 << 20, run_seconds=1.0, cpu_seconds=1.4) for _ in range(25)]
    )
    told = cellwork("shop.sized", "--suggest").stdout
    assert told.startswith("# shop.sized: 25 runs, 95 % of them within ")
    assert told.splitlines()[1] == '@app.task(memory="80m", cpus=1.5)'
    assert json.loads(cellwork("shop.sized", "--suggest", "--json").stdout)[0]["memory"] == 80 << 20
    assert cellwork("nobody", "--suggest").stdout.startswith("nothing to suggest yet")
