"""What only a real cluster does to pods: quotas, limits, admission, priorities; see `collect_ignore`."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kubernetes import client
from podruns import Running, launch
from waiting import wait_until

from cellwork.errors import EngineUnavailable, PolicyViolation
from cellwork_worker.executors.kubernetes import manifest, refusals, template
from cellwork_worker.executors.kubernetes.api import Api
from cellwork_worker.executors.kubernetes.connection import Refused

#: Something that a node can have one of, so that two pods cannot be there at once, however large it is.
SLOT = "cellwork.tests/slot"


@pytest.fixture
def start(executor, cluster) -> Callable[..., Running]:
    return lambda script, **options: Running(
        executor, launch(script, **{"image": cluster.image, "pull": "missing", **options})
    )


@contextmanager
def quota(cluster, **hard: str) -> Iterator[None]:
    cluster.api.create_namespaced_resource_quota(
        cluster.namespace, {"metadata": {"name": "small"}, "spec": {"hard": hard}}
    )
    try:
        # One that has not been counted yet refuses everything, in other words.
        wait_until(
            lambda: cluster.api.read_namespaced_resource_quota("small", cluster.namespace).status.hard, what="its count"
        )
        yield
    finally:
        cluster.api.delete_namespaced_resource_quota("small", cluster.namespace)


def test_a_quota_without_room_is_the_infrastructures_and_said_in_the_servers_words(start, cluster):
    with (
        quota(cluster, pods="0"),
        pytest.raises(
            EngineUnavailable, match=r"quota has no room, for task t in pod .*exceeded quota: small"
        ) as caught,
    ):
        start("true").exit()
    assert "limited: pods=0" in str(caught.value)


def test_a_pod_whose_secret_has_no_room_is_not_left_behind(executor, cluster):
    with (
        quota(cluster, **{"count/secrets": "0"}),
        pytest.raises(EngineUnavailable, match="exceeded quota: small, requested: count/secrets=1"),
    ):
        Running(executor, launch("cat", b"payload", image=cluster.image, pull="missing")).exit()
    wait_until(lambda: not cluster.left(), timeout=30, what="its pod to be gone")


def test_a_limit_range_is_a_refusal_in_the_servers_words(start, cluster):
    limits = [{"type": "Container", "max": {"memory": "32Mi"}}]
    cluster.api.create_namespaced_limit_range(
        cluster.namespace, {"metadata": {"name": "small"}, "spec": {"limits": limits}}
    )
    try:
        # Admission sees it a moment later.
        with pytest.raises(PolicyViolation, match=r"maximum memory usage per Container is 32Mi, but limit is 6[0-9]"):
            wait_until(lambda: start("true").exit().code is None, what="the refusal")
    finally:
        cluster.api.delete_namespaced_limit_range("small", cluster.namespace)


def test_a_namespace_without_a_role_is_a_refusal_in_the_servers_words(start, executor):
    with pytest.raises(PolicyViolation, match='dispatcher" cannot create resource "pods" in API group "" in the name'):
        start("true", namespace="default").exit()
    assert executor.sandboxes() == [], "it goes on looking where it may"


#: Of each field that the standard "restricted" speaks of, what it does not take.
LOOSE = {
    "host network": {"spec": {"hostNetwork": True}},
    "host processes": {"spec": {"hostPID": True}},
    "host path": {"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}},
    "volume type": {"spec": {"volumes": [{"name": "h", "nfs": {"server": "x", "path": "/"}}]}},
    "SELinux": {"spec": {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}},
    "AppArmor": {"spec": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}},
    "AppArmor's annotation": {
        "metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/task": "unconfined"}}
    },
    "sidecar": {"spec": {"containers": [{"name": "side", "image": "x"}]}},
    "init container": {"spec": {"initContainers": [{"name": "first", "image": "x"}]}},
    "probe": {"spec": {"containers": [{"name": "task", "livenessProbe": {"tcpSocket": {"host": "x", "port": 1}}}]}},
    "hook": {
        "spec": {
            "containers": [{"name": "task", "lifecycle": {"postStart": {"httpGet": {"host": "x", "port": 1}}}}],
        }
    },
    "seccomp": {
        "spec": {"containers": [{"name": "task", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}]}
    },
}


@pytest.mark.parametrize("what", LOOSE)
def test_what_the_cluster_does_not_call_restricted_no_worker_asks_for(what, cluster):
    made = manifest.pod(launch("true", image=cluster.image, pod_template=LOOSE[what]))
    with pytest.raises(PolicyViolation, match="is never allowed to have"):
        template.check("t", made)
    # And where a worker did, the server's sentence would come out.
    with pytest.raises(Refused) as refused:
        Api(context=None, rate=50, connections=1).create_pod(cluster.namespace, made)
    error = refusals.error("for task t", refused.value.status, refused.value.said)
    assert isinstance(error, PolicyViolation)
    assert 'violates PodSecurity "restricted:latest"' in str(error)


@pytest.fixture
def slot(cluster) -> Iterator[dict]:
    """A pod_template that takes a node's only slot."""
    path = f"/status/capacity/{SLOT.replace('/', '~1')}"
    nodes = cluster.api.list_node().items
    (name, *_) = [node.metadata.name for node in nodes if not node.spec.unschedulable and not node.spec.taints]
    cluster.api.patch_node_status(name, [{"op": "add", "path": path, "value": "1"}])
    try:
        yield {
            "spec": {"containers": [{"name": "task", "resources": {"limits": {SLOT: "1"}, "requests": {SLOT: "1"}}}]}
        }
    finally:
        cluster.api.patch_node_status(name, [{"op": "remove", "path": path}])


@pytest.fixture
def urgent(cluster) -> Iterator[str]:
    """A priority class."""
    api = client.SchedulingV1Api(cluster.api.api_client)
    name = f"cellwork-tests-{uuid.uuid4().hex[:8]}"
    api.create_priority_class({"metadata": {"name": name}, "value": 1000})
    yield name
    api.delete_priority_class(name)


def test_a_pod_that_makes_room_for_a_more_urgent_one_is_lost_and_says_so(start, slot, urgent):
    modest = start("echo ready; sleep 300", pod_template=slot, stop_grace=1)
    modest.wait_output(b"ready")
    pressing = start("true", pod_template=slot, priority_class=urgent)
    ended = modest.exit()
    assert (ended.killed, ended.oom) == (True, False)
    assert ended.detail.startswith("PreemptionByScheduler: ")
    assert pressing.exit().code == 0
