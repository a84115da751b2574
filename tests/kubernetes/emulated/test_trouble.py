"""What goes wrong with pods and with the API server, made to happen on the emulated one."""

import threading
import time

import msgspec
import pytest
from podruns import INSTALLATION, Running, launch
from waiting import wait_until

from cellwork.errors import EngineUnavailable, PolicyViolation, SandboxLost
from cellwork_worker.executors import again
from cellwork_worker.executors.kubernetes import KubernetesExecutor, connection

JOBS = "jobs"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ('pods "x" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=5', EngineUnavailable),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', PolicyViolation),
        (
            'pods is forbidden: User "system:serviceaccount:jobs:cellwork" cannot create resource "pods"',
            PolicyViolation,
        ),
    ],
)
def test_a_refusal_is_the_right_error_with_the_servers_sentence(start, server, message, error):
    server.inject(method="POST", path="/pods", status=403, message=message)
    with pytest.raises(error) as caught:
        start("true").exit()
    assert message in str(caught.value)


def test_a_namespace_that_refuses_does_not_keep_a_worker_from_looking_at_its_others(executor, server):
    server.inject(path="/namespaces/forbidden/", status=403, times=1000, message="pods is forbidden")
    with pytest.raises(PolicyViolation, match="pods is forbidden"):
        Running(executor, launch("true", namespace="forbidden")).exit()
    assert executor.sandboxes() == []


def test_an_overloaded_server_is_asked_again_when_it_says_so(start, server):
    server.inject(method="POST", path="/pods", status=429, times=2, headers={"Retry-After": "1"})
    server.inject(method="POST", path="/secrets", status=500, times=1)
    begun = time.monotonic()
    run = start("cat", payload=b"payload")
    assert run.exit().code == 0
    assert run.output == b"payload"
    assert time.monotonic() - begun > 2


def test_a_server_that_stays_in_trouble_is_an_infrastructure_failure(start, server):
    server.inject(method="POST", path="/pods", status=503, times=100)
    with pytest.raises(EngineUnavailable, match="has trouble, for task t in pod"):
        start("true").exit()


def test_a_create_whose_answer_is_lost_makes_one_pod(start, server):
    # The request has arrived, its answer has not: the second one is told 409.
    original, made = server.store.create, []

    def create(kind: str, namespace: str, given: dict) -> dict:
        answer = original(kind, namespace, given)
        if kind == "pods" and not made:
            made.append(given)
            server.drop()
        return answer

    server.store.create = create
    try:
        run = start("cat", payload=b"once")
        assert run.exit().code == 0
    finally:
        server.store.create = original
    assert run.output == b"once"


@pytest.mark.parametrize(
    ("kind", "payload", "trouble"),
    [("pods", None, {"drop": True}), ("pods", None, {"status": 504}), ("secrets", b"payload", {"drop": True})],
)
def test_what_a_server_did_and_never_answered_goes_on_in_the_next_try(
    executor, server, monkeypatch, kind, payload, trouble
):
    """The body has begun by then: to end it and to make another pod would be to run it twice."""
    monkeypatch.setattr(connection, "_PAUSE", 0.01)
    one = msgspec.structs.replace(launch("echo begun; sleep 3; echo done", payload), keep=True)
    other = Running(executor, launch("echo ready; sleep 8"))
    other.wait_output(b"ready")  # so that its watch is there
    original, made = server.store.create, []

    def create(what: str, namespace: str, given: dict) -> dict:
        answer = original(what, namespace, given)
        made.append(what)
        if what == kind and made.count(kind) == 1:
            server.inject(method="POST", path=f"/{kind}", times=connection._TRIES - 1, **trouble)
            server.drop()
        return answer

    server.store.create = create
    try:
        with pytest.raises(EngineUnavailable):
            Running(executor, one).exit()
        executor._remover.wait()
        run = Running(executor, one)
        ended = run.exit()
    finally:
        server.store.create = original
    assert (ended.adopted, ended.code, run.output) == (True, 0, b"begun\ndone\n")
    assert made.count("pods") == 1
    executor.discard(one.id)
    assert other.exit().code == 0


def test_a_pod_is_deleted_when_the_server_answers_again(executor, server, monkeypatch):
    """Its worker lives on, so no reaper will ever look at it."""
    monkeypatch.setattr(connection, "_PAUSE", 0.01)
    monkeypatch.setattr(again, "_PAUSE", 0.1)
    one = msgspec.structs.replace(launch("true"), keep=True)
    assert Running(executor, one).exit().code == 0
    before = server.requests["DELETE one"]
    server.inject(method="DELETE", status=503, times=2 * connection._TRIES)
    executor.discard(one.id)
    wait_until(lambda: not server.store.listed("pods", JOBS)[0], timeout=30, what="the pod to be gone")
    assert server.requests["DELETE one"] == before + 2 * connection._TRIES + 1


def test_a_deletion_that_comes_late_does_not_meet_a_pod_that_has_the_name_by_then(executor, server):
    one = msgspec.structs.replace(launch("echo ready; sleep 3"), keep=True)
    run = Running(executor, one)
    run.wait_output(b"ready")
    before = server.requests["DELETE one"]
    executor._remover.later(JOBS, one.id, uid="of-an-earlier-one")
    executor._remover.wait()
    assert server.requests["DELETE one"] == before + 1
    assert run.exit().code == 0
    executor.discard(one.id)


def test_a_slow_server_is_waited_for(start, server):
    server.inject(path="/pods", delay=1.0, times=3)
    assert start("exit 4").exit().code == 4


def test_a_second_delivery_adopts_the_pod_with_all_its_output(make_executor):
    first, second = make_executor("one"), make_executor("two")
    one = msgspec.structs.replace(launch("echo first; sleep 2; echo last; cat", b"payload\n"), keep=True)
    run = Running(first, one)
    run.wait_output(b"first")
    first.abandon(one.id)
    again = Running(second, one)
    ended = again.exit()
    assert (ended.adopted, ended.code) == (True, 0)
    assert again.output == b"first\nlast\npayload\n"
    second.discard(one.id)


def test_a_pod_without_its_payload_is_given_that_by_whoever_adopts_it(make_executor, server):
    one = launch("cat", b"late")

    def die() -> None:
        raise KeyboardInterrupt

    dying = msgspec.structs.replace(one, confirm=die, keep=True)
    first = make_executor("one")
    first._remover.later = lambda *_: None  # it dies before it can
    with pytest.raises(KeyboardInterrupt):
        Running(first, dying).exit()
    assert server.store.get("pods", JOBS, one.id)
    run = Running(make_executor("two"), one)
    ended = run.exit()
    assert (ended.adopted, ended.code) == (True, 0)
    assert run.output.rstrip() == b"late"


def test_a_secret_that_an_earlier_pod_of_the_name_leaves_is_waited_for(start, server):
    """The cluster removes it some time after that pod; until then there can be no other."""
    server.inject(method="POST", path="/secrets", status=409, message="already exists", times=2)
    run = start("cat", b"payload", start_timeout=20)
    assert run.exit().code == 0
    assert run.output.rstrip() == b"payload"


def test_no_body_begins_where_its_worker_may_not_any_more(executor, server):
    def refuse() -> None:
        raise SandboxLost("taken over")

    one = msgspec.structs.replace(launch("echo ran", b"payload"), confirm=refuse)
    with pytest.raises(SandboxLost, match="taken over"):
        Running(executor, one).exit()
    assert server.requests["POST secrets"] == 0 or not server.store.listed("secrets", JOBS)[0]
    wait_until(lambda: not server.store._objects, timeout=20, what="its pod to be gone")


def test_more_pods_than_followers_are_read_when_they_have_ended(make_executor):
    executor = make_executor(followers=1)
    runs = [Running(executor, launch(f"for i in 1 2 3; do echo {n} $i; done")) for n in range(4)]
    for number, run in enumerate(runs):
        assert run.exit().code == 0
        assert run.output.decode().splitlines() == [f"{number} {i}" for i in (1, 2, 3)]


def test_the_check_names_each_verb_that_the_role_lacks(executor, server):
    assert executor.check().ok
    given = server.allowed
    server.allowed = lambda verb, resource: (verb, resource) not in {("create", "pods"), ("get", "pods/log")}
    health = executor.check()
    server.allowed = given
    assert not health.ok
    assert "lacks: create pods, get pods/log" in health.detail


def test_no_cluster_at_all_is_said_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    nowhere = KubernetesExecutor(installation=INSTALLATION, worker="one")
    assert "Set KUBECONFIG" in nowhere.check().detail
    with pytest.raises(EngineUnavailable, match="no Kubernetes cluster is configured"):
        nowhere.run(launch("true"), lambda stream, data: False)
    assert nowhere.place() == "kubernetes-unknown"


def test_the_rest_of_a_long_log_is_read_however_long_that_takes(executor, monkeypatch):
    monkeypatch.setattr("cellwork_worker.executors.kubernetes.following._DRAIN", 0.2)
    counted = 0

    def slow(stream: int, data: bytes) -> bool:
        nonlocal counted
        counted += len(data)
        threading.Event().wait(0.02)
        return False

    assert executor.run(launch("head -c 3000000 /dev/zero"), slow).code == 0
    assert counted >= 3_000_000
