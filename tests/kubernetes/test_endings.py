"""How pods end that do not end well, and what is said then. On either cluster: what tests can cause in both."""

import time
from collections.abc import Callable, Iterator
from signal import SIGTERM

import msgspec
import pytest
from podruns import INSTALLATION, Running, launch
from waiting import wait_until

from cellwork.errors import ImageUnavailable, InvalidSpec, PolicyViolation, SandboxLost, StartTimeout
from cellwork_worker.executors.kubernetes import KubernetesExecutor, Limits

#: Ends when it is asked to.
OBEDIENT = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.fixture
def make_executor(cluster) -> Iterator[Callable[..., KubernetesExecutor]]:
    made = []

    def make(**limits: float) -> KubernetesExecutor:
        namespace, limited = cluster.namespace, Limits(**limits)
        made.append(KubernetesExecutor(installation=INSTALLATION, worker="one", namespace=namespace, limits=limited))
        return made[-1]

    yield make
    for executor in made:
        executor.sweep(frozenset())


@pytest.fixture
def executor(make_executor) -> KubernetesExecutor:
    return make_executor()


@pytest.fixture
def start(executor, cluster) -> Callable[..., Running]:
    def start(script: str, **options: object) -> Running:
        return Running(executor, launch(script, **{"image": cluster.image, "pull": "missing", **options}))

    return start


def test_an_image_that_no_node_can_pull_is_said_with_the_kubelets_words(start):
    with pytest.raises(ImageUnavailable, match=r"(?s)ImagePullBackOff: .*nobody/nothing:1"):
        start("true", image="registry.invalid/nobody/nothing:1", start_timeout=50).exit()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cpus": 1000}, "Insufficient cpu"),
        ({"node_selector": {"cellwork-tests/gpu": "a100"}}, "didn't match Pod's node affinity/selector"),
        ({"platform": "linux/s390x"}, "didn't match Pod's node affinity/selector"),
        ({"volumes": ["missing:/data"]}, 'persistentvolumeclaim "missing" not found'),
    ],
)
def test_a_pod_that_fits_nowhere_is_given_up_with_the_schedulers_words(start, options, says):
    with pytest.raises(StartTimeout, match="was not running within start_timeout=2 s: Unschedulable: 0/") as caught:
        start("true", start_timeout=2, **options).exit()
    assert says in str(caught.value)


def test_a_program_that_is_not_there_is_the_specs_fault(start):
    with pytest.raises(InvalidSpec, match="cannot start its program"):
        start("true", entrypoint="/no/such").exit()


def test_a_user_that_is_root_gets_no_pod(start):
    with pytest.raises(PolicyViolation, match=r"never allowed to have root in its pod \(from user= or pod_template=\)"):
        start("true", user="0").exit()


def test_an_eviction_through_the_api_is_a_loss_and_says_so(start, cluster):
    run = start("echo ready; sleep 300", stop_grace=1)
    run.wait_output(b"ready")
    cluster.api.create_namespaced_pod_eviction(
        run.launch.id, cluster.namespace, {"metadata": {"name": run.launch.id, "namespace": cluster.namespace}}
    )
    ended = run.exit()
    assert (ended.killed, ended.oom) == (True, False)
    assert ended.detail == "EvictionByEvictionAPI: Eviction API: evicting"


def test_a_pod_that_somebody_deletes_is_lost_though_it_ends_in_good_order(start, cluster):
    run = start(OBEDIENT, stop_grace=5)
    run.wait_output(b"ready")
    cluster.api.delete_namespaced_pod(run.launch.id, cluster.namespace)
    ended = run.exit()
    assert (ended.killed, ended.detail) == (True, "the pod was deleted")


def test_a_pod_that_is_taken_away_at_once_is_lost(start, cluster):
    run = start(OBEDIENT)
    run.wait_output(b"ready")
    cluster.api.delete_namespaced_pod(run.launch.id, cluster.namespace, grace_period_seconds=0)
    with pytest.raises(SandboxLost, match="was deleted while it ran, not by this worker"):
        run.exit()


def test_a_pod_that_is_asked_to_end_has_its_grace_and_no_more(start, executor):
    polite = start("trap 'sleep 1; echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done", stop_grace=20)
    stubborn = start("trap '' TERM; echo ready; while :; do sleep 0.1; done", stop_grace=1)
    for run in (polite, stubborn):
        run.wait_output(b"ready")
        executor.stop(run.launch.id, SIGTERM)
    assert polite.exit().code == 0
    assert polite.output.endswith(b"bye\n")
    begun = time.monotonic()
    assert stubborn.exit().killed
    assert time.monotonic() - begun < 15


def test_a_deadline_of_the_pods_own_is_told_from_a_loss(start):
    run = start(OBEDIENT, pod_template={"spec": {"activeDeadlineSeconds": 3}}, stop_grace=1)
    ended = run.exit()
    assert (ended.late, ended.killed) == (True, False)
    assert ended.detail.startswith("DeadlineExceeded: Pod was active on the node longer than the specified deadline")


def test_a_process_that_is_killed_for_memory_is_said_to_be(start):
    ended = start("tail /dev/zero").exit()
    assert (ended.oom, ended.killed) == (True, False)


def test_a_failed_pod_is_kept_as_long_as_asked(make_executor, cluster):
    executor = make_executor(keep_failed_for=2)
    one = msgspec.structs.replace(launch("exit 3", image=cluster.image, pull="missing"), keep=True)
    assert Running(executor, one).exit().code == 3
    begun = time.monotonic()
    executor.discard(one.id)
    assert cluster.left() == [f"pod {one.id}"]
    wait_until(lambda: not cluster.left(), timeout=20, what="it to go")
    assert time.monotonic() - begun > 2


def test_the_pod_of_a_command_that_ended_well_is_not_kept(make_executor, cluster):
    executor = make_executor(keep_failed_for=300)
    one = msgspec.structs.replace(launch("true", image=cluster.image, pull="missing"), keep=True)
    assert Running(executor, one).exit().code == 0
    executor.discard(one.id)
    wait_until(lambda: not cluster.left(), timeout=20, what="it to go")
