"""What goes wrong with pods and with the API server, made to happen on the emulated one."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator

import msgspec
import pytest
from emulator.apiserver import ApiServer
from emulator.cluster import write_kubeconfig
from emulator.node import Node
from podruns import INSTALLATION, Running, launch
from waiting import wait_until

from cellwork.errors import EngineUnavailable, PolicyViolation, SandboxLost
from cellwork_worker.executors.kubernetes import KubernetesExecutor, Limits

JOBS = "jobs"


@pytest.fixture(scope="module")
def node(engine) -> Iterator[Node]:
    node = Node(f"cellwork.emulated-node={uuid.uuid4().hex[:12]}")
    yield node
    node.close()


@pytest.fixture(scope="module")
def server(node) -> Iterator[ApiServer]:
    server = ApiServer(node.logs)
    node.serve(server.store)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def leaves_nothing(server) -> Iterator[None]:
    """No pod and no Secret is left; and no fault is left for the next test."""
    yield
    server._faults.clear()
    wait_until(lambda: not server.store._objects, timeout=40, what="all pods and Secrets to be gone")


@pytest.fixture
def make_executor(server, tmp_path, monkeypatch) -> Iterator[Callable[..., KubernetesExecutor]]:
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path, server.url)))
    made = []

    def make(worker: str = "one", **limits: float) -> KubernetesExecutor:
        made.append(KubernetesExecutor(installation=INSTALLATION, worker=worker, limits=Limits(**limits)))
        return made[-1]

    yield make
    for executor in made:
        executor.sweep(frozenset())


@pytest.fixture
def executor(make_executor) -> KubernetesExecutor:
    return make_executor()


@pytest.fixture
def start(executor) -> Callable[..., Running]:
    return lambda script, payload=None, **options: Running(executor, launch(script, payload, **options))


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


def test_output_is_whole_and_once_although_every_connection_breaks(start, server):
    run = start("for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done")
    for number in (2, 4):
        run.wait_output(b"line %d\n" % number)
        server.drop()
    assert run.exit().code == 0
    assert run.output.decode().splitlines() == [f"line {n}" for n in range(1, 7)]


def test_a_server_that_restarts_costs_no_task(start, server):
    run = start("echo first; sleep 2; echo last")
    run.wait_output(b"first")
    server.stop()
    threading.Event().wait(1.0)
    server.restart()
    assert run.exit().code == 0
    assert run.output == b"first\nlast\n"


def test_a_watch_that_is_too_old_begins_anew(start, server):
    run = start("echo ready; sleep 2")
    run.wait_output(b"ready")
    lists = server.requests["GET pods"]
    server.stop()
    server.store.compact()
    server.restart()
    assert run.exit().code == 0
    assert server.requests["GET pods"] > lists


def test_a_list_from_an_old_cache_does_not_end_a_task(start, server):
    run = start("echo ready; sleep 2; echo last")
    run.wait_output(b"ready")
    server.inject(method="GET", path="/pods?labelSelector", stale=[])
    server.store.compact()
    server.drop()
    assert run.exit().code == 0
    assert run.output.endswith(b"last\n")


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


def test_no_body_begins_where_its_worker_may_not_any_more(executor, server):
    def refuse() -> None:
        raise SandboxLost("taken over")

    one = msgspec.structs.replace(launch("echo ran", b"payload"), confirm=refuse)
    with pytest.raises(SandboxLost, match="taken over"):
        Running(executor, one).exit()
    assert server.requests["POST secrets"] == 0 or not server.store.listed("secrets", JOBS)[0]
    wait_until(lambda: not server.store._objects, timeout=20, what="its pod to be gone")


def test_an_outcome_is_in_the_pods_status_where_its_log_is_not_to_be_had(start, server):
    server.inject(path="/log", status=500, times=1000, message="kubelet is not reachable")
    run = start("printf 'last words' >/dev/termination-log; echo lost", payload=b"x")
    assert run.exit().code == 0
    assert run.output == b"last words"


def test_more_pods_than_followers_are_read_when_they_have_ended(make_executor):
    executor = make_executor(followers=1)
    runs = [Running(executor, launch(f"for i in 1 2 3; do echo {n} $i; done")) for n in range(4)]
    for number, run in enumerate(runs):
        assert run.exit().code == 0
        assert run.output.decode().splitlines() == [f"{number} {i}" for i in (1, 2, 3)]


def test_a_pod_costs_four_requests_and_all_share_one_watch(make_executor, server):
    executor = make_executor()
    Running(executor, launch("true")).exit()
    executor._remover.wait()
    server.requests.clear()
    for run in [Running(executor, launch("cat", b"payload")) for _ in range(4)]:
        assert run.exit().code == 0
    executor._remover.wait()
    assert server.requests["POST pods"] == server.requests["POST secrets"] == server.requests["GET log"] == 4
    assert server.requests["DELETE one"] <= 4
    assert server.requests["GET watch"] <= 1
    assert sum(server.requests.values()) <= 4 * 5


def test_the_check_names_each_verb_that_the_role_lacks(executor, server):
    assert executor.check().ok
    server.allowed = lambda verb, resource: (verb, resource) not in {("create", "pods"), ("get", "pods/log")}
    health = executor.check()
    server.allowed = lambda verb, resource: True
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
