"""A worker that is asked to leave: what takes too long is handed over."""

import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from waiting import wait_until

TIMEOUT = 60


def begin(start_worker, gate, name: str, **env: str):
    worker = start_worker("-c", "1", "-Q", name, name=name, CELLWORK_DRAIN_SECONDS="1", **gate.env, **env)
    result = gate.send(name)
    wait_until(gate.begun, timeout=TIMEOUT, what="the body to begin")
    worker.signal(signal.SIGTERM)
    # It does not wait for the task: that will not end now.
    assert worker.wait(TIMEOUT) == 0
    assert not result.ready()
    return result


def test_what_is_left_runs_on_and_the_next_worker_adopts_it(gate, start_worker, containers):
    result = begin(start_worker, gate, "leaves")
    (left,) = containers()
    assert left["State"] == "running"
    second = start_worker("-c", "1", "-Q", "leaves", name="adopts", **gate.env)
    wait_until(lambda: second.text.count("received") == 1, timeout=TIMEOUT, what="the second delivery")
    gate.open()
    assert result.get(timeout=TIMEOUT) == "through\n"
    assert second.text.count("received") == 1
    assert gate.begun() == 1
    assert result.id in left["Names"][0]
    wait_until(lambda: not containers(), timeout=TIMEOUT, what="the adopted container to be removed")
    second.stop()


@pytest.mark.parametrize("executor", ["docker", "process"])
def test_what_is_requeued_is_ended_and_begins_anew_at_the_next_worker(shop, start_worker, gate, executor, containers):
    if executor == "docker":
        result = begin(start_worker, gate, "requeues", CELLWORK_DRAIN="requeue")
        assert not containers(), "its sandbox went with the worker"
        gate.open()
    else:
        # Nobody can adopt a process, so leaving it means the same.
        worker = start_worker("-c", "1", "-Q", "requeues", CELLWORK_DRAIN_SECONDS="1", CELLWORK_EXECUTOR="process")
        result = shop.tasks.sleep.apply_async((6,), queue="requeues")
        wait_until(lambda: worker.inspect("active"), timeout=TIMEOUT, what="it to run")
        worker.signal(signal.SIGTERM)
        assert worker.wait(TIMEOUT) == 0
    second = start_worker("-c", "1", "-Q", "requeues", **gate.env)
    assert result.get(timeout=TIMEOUT) == ("through\n" if executor == "docker" else 6)
    assert gate.begun() == (2 if executor == "docker" else 0)
    second.stop()


def test_what_ends_within_the_deadline_is_finished(shop, start_worker):
    worker = start_worker("-c", "1", "-Q", "finishes", name="finishes", CELLWORK_DRAIN_SECONDS="30")
    result = shop.tasks.sleep.apply_async((2,), queue="finishes")
    wait_until(lambda: worker.inspect("active"), timeout=TIMEOUT, what="it to run")
    worker.signal(signal.SIGTERM)
    assert worker.wait(TIMEOUT) == 0
    assert result.get(timeout=1) == 2


def test_the_prestop_hook_of_the_documentation_drains_and_a_second_sigterm_changes_nothing(
    shop, start_worker, tmp_path
):
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    hook = [
        word.replace("/tmp/worker.pid", str(tmp_path / "worker.pid"))
        for word in yaml.safe_load(block)["lifecycle"]["preStop"]["exec"]["command"]
    ]
    worker = start_worker("-c", "1", "-Q", "hooked", f"--pidfile={tmp_path / 'worker.pid'}", name="hooked")
    result = shop.tasks.sleep.apply_async((4,), queue="hooked")
    wait_until(lambda: worker.inspect("active"), timeout=TIMEOUT, what="it to run")
    with subprocess.Popen(hook) as running:
        wait_until(lambda: "Warm shutdown" in worker.text, timeout=TIMEOUT, what="the worker to be told")
        worker.signal(signal.SIGTERM)  # the kubelet's
        assert running.wait(TIMEOUT) == 0
    assert worker.wait(TIMEOUT) == 0
    assert result.get(timeout=1) == 4
