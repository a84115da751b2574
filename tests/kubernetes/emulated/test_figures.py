"""What a cluster tells of a pod besides its state: how long its image took to pull, and what it uses."""

import logging

import msgspec
import pytest
from podruns import IMAGE, Running, launch
from waiting import wait_until

from cellwork_worker.executors.kubernetes import samples


@pytest.fixture
def another(start, server):
    """A pod that runs on, so that the watch of events is there before the pods that are looked at."""
    watches = server.requests["GET watch events"]
    run = start("echo ready; sleep 300")
    run.wait_output(b"ready")
    wait_until(lambda: server.requests["GET watch events"] > watches, timeout=60, what="the watch of events")
    return run


@pytest.fixture
def slow_pull(node):
    node.pulls[IMAGE] = "850ms (1m2.5s including waiting)"
    yield
    del node.pulls[IMAGE]


def test_a_pull_is_told_with_its_turn_in_the_kubelets_queue(executor, start, another, slow_pull):
    ended = start("true").exit()
    executor.stop(another.launch.id, 9)
    assert ended.pull_seconds == 62.5
    assert another.exit().pull_seconds is None, "its image was there"


def test_a_worker_that_may_not_read_events_says_so_once_and_runs_tasks(make_executor, server, caplog):
    may, asked = server.allowed, server.requests["GET events"]
    server.allowed = lambda verb, resource: resource != "events" and may(verb, resource)
    try:
        executor = make_executor()
        with caplog.at_level(logging.ERROR):
            run = Running(executor, launch("echo ready; sleep 300"))
            run.wait_output(b"ready")
            wait_until(lambda: server.requests["GET events"] > asked + 1, timeout=60, what="it to ask again")
        executor.stop(run.launch.id, 9)
        assert run.exit().pull_seconds is None
        assert "lacks: list events, watch events" in executor.check().detail
    finally:
        server.allowed = may
    said = [record.message for record in caplog.records if "events" in record.message]
    assert len(said) == 1
    assert 'cannot list resource "events"' in said[0]


def test_what_a_program_uses_is_sampled_for_its_bill_and_for_those_who_look(executor, monkeypatch):
    monkeypatch.setattr(samples, "_PERIOD", 0.5)
    program = ("python3", "-c", "kept = bytearray(20 << 20)\nwhile True: pass")
    run = Running(executor, msgspec.structs.replace(launch("", cpus=0.5), argv=program))
    usage = wait_until(lambda: executor.usage(run.launch.id), timeout=60, what="a sample")
    assert 0 < usage.memory_bytes <= usage.memory_limit_bytes == 64 << 20

    def computes() -> bool:
        usage = executor.usage(run.launch.id)
        return usage.cpu_percent > 5 and usage.memory_bytes > 20 << 20

    wait_until(computes, timeout=60, what="it to compute")
    executor.stop(run.launch.id, 9)
    used = run.exit().used
    assert used["cpu_seconds"] > 0.05
    assert 20 << 20 < used["peak_memory_bytes"] <= 64 << 20
    assert executor.usage(run.launch.id) is None


def test_a_cluster_without_metrics_server_is_asked_seldom_and_gives_no_figures(executor, server, monkeypatch):
    monkeypatch.setattr(samples, "_PERIOD", 0.1)
    metrics, server.metrics = server.metrics, None
    try:
        asked = server.requests["GET metrics"]
        run = Running(executor, msgspec.structs.replace(launch(""), argv=("sleep", "300")))
        assert run.started.wait(60)
        wait_until(lambda: server.requests["GET metrics"] > asked, timeout=60, what="it to ask")
        executor.stop(run.launch.id, 9)
        assert run.exit().used == {}
    finally:
        server.metrics = metrics
    assert server.requests["GET metrics"] == asked + 1
