"""Pods that the cluster takes away, made to happen on the emulated one."""

import pytest

from cellwork.errors import SandboxLost, StartTimeout
from cellwork_worker.executors.kubernetes import following, watch

JOBS = "jobs"


def test_an_evicted_pod_is_lost_and_says_why(start, node):
    run = start("echo ready; sleep 300")
    run.wait_output(b"ready")
    node.evict(run.launch.id)
    ended = run.exit()
    assert (ended.killed, ended.oom) == (True, False)
    assert ended.detail == "Evicted: The node was low on resource: memory."


def test_a_pod_that_vanishes_while_nobody_looks_is_lost(start, server):
    run = start("echo ready; sleep 300")
    run.wait_output(b"ready")
    server.stop()
    server.store.remove("pods", JOBS, run.launch.id)
    server.store.compact()
    server.restart()
    with pytest.raises(SandboxLost, match="was deleted while it ran"):
        run.exit()


def test_a_container_that_is_killed_is_told_from_one_that_ends(start, node):
    run = start("echo ready; sleep 300")
    run.wait_output(b"ready")
    node.kill(run.launch.id)
    ended = run.exit()
    assert (ended.code, ended.killed) == (137, True)


def test_an_outcome_is_in_the_pods_status_where_its_log_is_not_to_be_had(start, server):
    server.inject(path="/log", status=500, times=1000, message="kubelet is not reachable")
    run = start("printf 'last words' >/dev/termination-log; echo lost", payload=b"x")
    assert run.exit().code == 0
    assert run.output == b"last words"


@pytest.mark.parametrize("reason", ["PreemptionByScheduler", "DeletionByTaintManager", "TerminationByKubelet"])
def test_a_pod_that_the_cluster_takes_away_is_lost_though_it_ends_in_good_order(start, node, reason):
    run = start("trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done", stop_grace=5)
    run.wait_output(b"ready")
    node.disrupt(run.launch.id, reason, "said by the cluster")
    ended = run.exit()
    assert (ended.killed, ended.oom) == (True, False)
    assert ended.detail == f"{reason}: said by the cluster"


def test_a_pod_whose_node_says_nothing_any_more_is_lost(start, node, monkeypatch):
    monkeypatch.setattr(watch, "_GONE_AFTER", 1.0)
    monkeypatch.setattr(following, "_DRAIN", 0.5)
    run = start("echo ready; sleep 300", stop_grace=1)
    run.wait_output(b"ready")
    node.lose()
    try:
        # What the cluster does when it has not heard of the node for long enough.
        node.disrupt(run.launch.id, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
        with pytest.raises(SandboxLost, match=r"was deleted while it ran, .*DeletionByTaintManager: Taint manager"):
            run.exit()
    finally:
        node.come_back()


def test_a_pod_that_its_node_never_started_is_given_up_in_time(start, node):
    node.lose()
    try:
        with pytest.raises(StartTimeout, match="was not running within start_timeout=1 s: nobody has placed it"):
            start("true", start_timeout=1).exit()
    finally:
        node.come_back()
