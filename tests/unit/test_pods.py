"""Pods: what a launch becomes, what is never allowed, and what a pod's status means."""

import base64
import gzip
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from emulator.node import expanded
from hypothesis import given
from hypothesis import strategies as st

from cellwork.errors import EngineUnavailable, ImageUnavailable, InvalidSpec, PayloadTooLarge, PolicyViolation
from cellwork.spec import ContainerSpec, parse
from cellwork_worker.executors import shell
from cellwork_worker.executors.kubernetes import manifest, refusals, status, template
from cellwork_worker.executors.kubernetes.limiter import Limiter
from cellwork_worker.executors.kubernetes.objects import Pod
from cellwork_worker.executors.kubernetes.watch import Watched
from cellwork_worker.hardening import harden
from cellwork_worker.launch import Launch, labels, worker_labels


def launch(payload: bytes | None = b"payload", **options: object) -> Launch:
    spec = harden("t", parse("t", {"image": "python:3.12", **options}), ContainerSpec())
    return Launch(
        id="cellwork-x-0",
        task="t",
        task_id="x",
        spec=spec,
        argv=("python3", "-c", "code"),
        env={"A": "1"},
        payload=payload,
        labels=labels(worker_labels("home", "celery@host", "a1b2", "c3d4"), "shop.tasks.parse", "x", spec),
    )


def pod(**status_: object) -> Pod:
    return msgspec.convert({"metadata": {"name": "cellwork-x-0"}, "status": status_}, Pod)


def in_state(**state: object) -> Pod:
    return pod(phase="Running", containerStatuses=[{"name": "task", "state": state}])


@given(st.lists(st.text("$()A b", max_size=12), min_size=1))
def test_kubernetes_puts_no_variable_into_what_is_run(words):
    one = msgspec.structs.replace(launch(payload=None), argv=tuple(words), env={"A": "1", "B": words[0]})
    container = manifest.pod(one)["spec"]["containers"][0]
    assert [expanded(word, {"A": "1"}) for word in container["args"]] == words
    assert expanded(container["env"][1]["value"], {"A": "1"}) == words[0]


def test_what_a_launch_asks_for_is_what_the_pod_has():
    made = manifest.pod(launch(cpus="1500m", memory="2Gi", gpus=2, user="1000:2000", stop_grace=4.2, dns=["10.0.0.1"]))
    spec, container = made["spec"], made["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "1500m", "memory": str(2 << 30), "nvidia.com/gpu": "2"}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]) == (1000, 2000)
    assert spec["terminationGracePeriodSeconds"] == 5
    assert (spec["dnsPolicy"], spec["dnsConfig"]) == ("None", {"nameservers": ["10.0.0.1"]})
    assert container["env"] == [{"name": "A", "value": "1"}]
    assert container["command"][-3:] == ["python3", "-c", "code"]
    assert spec["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"user": "postgres"}, "user='postgres' is a name"),
        ({"user": "1000:staff"}, "user='1000:staff' is a name"),
        ({"user": "²"}, "user='²' is a name"),
        ({"devices": ["/dev/fuse"]}, r"devices=\['/dev/fuse'\] are of a host"),
        ({"volumes": ["/srv/data:/data"]}, "volumes='/srv/data:/data' is a folder of the host"),
        ({"volumes": ["data:/data:r0"]}, "volumes='data:/data:r0': a pod knows the modes ro and rw"),
    ],
)
def test_what_a_pod_cannot_have_is_refused_and_not_left_out(options, says):
    with pytest.raises(InvalidSpec, match=f"^task t: {says}"):
        manifest.pod(launch(**options))


@pytest.mark.parametrize(
    ("platform", "selector"),
    [
        ("linux/arm64/v8", {"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}),
        ("windows", {"kubernetes.io/os": "windows"}),
    ],
)
def test_a_platform_is_a_node_of_that_kind_unless_the_task_says_its_nodes(platform, selector):
    assert manifest.pod(launch(platform=platform))["spec"]["nodeSelector"] == selector
    own = {"kubernetes.io/os": "plan9", "pool": "a"}
    assert manifest.pod(launch(platform=platform, node_selector=own))["spec"]["nodeSelector"] == selector | own
    assert "nodeSelector" not in manifest.pod(launch())["spec"]


def test_every_pod_is_restricted():
    made = manifest.pod(launch())
    spec, container = made["spec"], made["spec"]["containers"][0]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    template.check("t", made)


def test_the_payload_is_in_a_secret_that_goes_with_its_pod():
    one = launch(payload=b"x" * 5_000_000)
    made = manifest.secret(one, manifest.packed(one), "the-uid")
    assert gzip.decompress(base64.b64decode(made["data"]["payload"])) == one.payload
    assert made["metadata"]["ownerReferences"][0] | {"controller": True} == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": one.id,
        "uid": "the-uid",
        "controller": True,
    }
    volume = manifest.pod(one)["spec"]["volumes"][0]
    assert volume["secret"]["secretName"] == made["metadata"]["name"]


def test_a_payload_that_no_secret_takes_is_refused():
    with pytest.raises(PayloadTooLarge, match=r"task t: .* 1048576"):
        manifest.packed(launch(payload=random.Random(1).randbytes(1_200_000)))


def test_a_command_keeps_the_images_entry_point_unless_it_says_one():
    plain = manifest.pod(launch(payload=None))["spec"]["containers"][0]
    assert "command" not in plain
    assert plain["args"] == ["python3", "-c", "code"]
    said = manifest.pod(launch(payload=None, entrypoint="tini"), borrow=False)["spec"]["containers"][0]
    assert (said["command"], "args" in said) == (["tini", "python3", "-c", "code"], False)
    none = manifest.pod(launch(payload=None, entrypoint=[]), borrow=False)["spec"]["containers"][0]
    assert (none["command"], "args" in none) == (["python3", "-c", "code"], False)


@pytest.mark.parametrize("borrow", [True, False])
@pytest.mark.parametrize(("argv", "entrypoint"), [(("sh", "-c", "true"), None), (("script",), "/bin/bash")])
def test_a_command_that_a_shell_runs_is_measured_by_that_shell(argv, entrypoint, borrow):
    one = msgspec.structs.replace(launch(payload=None, entrypoint=entrypoint), argv=argv)
    container = manifest.pod(one, borrow=borrow)["spec"]["containers"][0]
    words, program = container["command" if entrypoint else "args"], [entrypoint, *argv] if entrypoint else [*argv]
    assert (words[:2], words[3:]) == ([program[0], "-c"], [program[0], *program])


def test_a_command_that_is_all_known_is_measured_by_its_images_shell():
    container = manifest.pod(launch(payload=None, entrypoint="tini"))["spec"]["containers"][0]
    assert container["command"][:2] == ["/bin/sh", "-c"]
    assert container["command"][4:] == ["tini", "python3", "-c", "code"]
    assert "args" not in container


@pytest.mark.parametrize(
    ("message", "used"),
    [
        ("memory.peak 900\nusage_usec 1500000\ninactive_file 300\nactive_file 100\n", (1.5, 500)),
        ("memory.max_usage_in_bytes 900\ncpuacct.usage 20000000\nactive_file 9\ntotal_active_file 100", (0.02, 800)),
        ("memory.peak 100\ninactive_file 300", (None, 0)),
        ("", (None, None)),
        ("memory.peak -1\nusage_usec 1e9", (None, None)),
        ("memory.peak ١٢\nusage_usec " + "9" * 4000, (None, None)),
        ("words of the command's own\nmemory.peak 1 2", (None, None)),
    ],
)
def test_what_a_shell_tells_is_taken_where_it_is_an_amount(message, used):
    found = shell.figures(message)
    assert (found.get("cpu_seconds"), found.get("peak_memory_bytes")) == used


@pytest.mark.parametrize(
    ("volume", "source"),
    [
        ("data:/data", {"persistentVolumeClaim": {"claimName": "data"}}),
        ("pvc/data:/data:ro", {"persistentVolumeClaim": {"claimName": "data"}}),
        ("configmap/settings:/etc/app", {"configMap": {"name": "settings"}}),
        ("emptydir:/scratch", {"emptyDir": {}}),
    ],
)
def test_volumes_are_claims_config_maps_and_empty_folders(volume, source):
    spec = manifest.pod(launch(payload=None, volumes=[volume]))["spec"]
    (found,) = [v for v in spec["volumes"] if v.items() >= source.items()]
    (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == found["name"]]
    assert mount["mountPath"] == volume.split(":")[1]
    assert mount.get("readOnly", False) is volume.endswith(":ro")


def test_a_folder_of_the_host_is_nothing_for_a_pod():
    with pytest.raises(InvalidSpec, match=r"volumes='/srv:/data' is a folder of the host"):
        manifest.pod(launch(volumes=["/srv:/data"]))


def test_where_it_runs_is_what_the_task_says():
    options = {
        "service_account": "trainer",
        "node_selector": {"gpu": "a100"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priority_class": "batch",
        "scheduler": "volcano",
        "runtime": "gvisor",
        "image_pull_secrets": ["registry"],
        "annotations": {"team": "ml"},
        "kueue_queue": "gpus",
        "network": "bridge",
    }
    made = manifest.pod(launch(**options))
    spec, metadata = made["spec"], made["metadata"]
    assert spec["serviceAccountName"] == "trainer"
    assert spec["nodeSelector"] == {"gpu": "a100"}
    assert options["tolerations"][0] in spec["tolerations"]
    assert spec["affinity"] == {"nodeAffinity": {}}
    assert (spec["priorityClassName"], spec["schedulerName"]) == ("batch", "volcano")
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert metadata["annotations"]["team"] == "ml"
    assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert metadata["labels"]["cellwork.network"] == "bridge"


def test_the_kubelet_ends_what_no_worker_ended():
    limited = msgspec.structs.replace(launch(start_timeout=100), time_limit=30.5)
    assert manifest.pod(limited)["spec"]["activeDeadlineSeconds"] == 191
    assert "activeDeadlineSeconds" not in manifest.pod(launch())["spec"]


@given(st.text(max_size=100))
def test_any_text_has_a_label_that_is_one(text):
    made = manifest.label(text)
    assert len(made) <= 63
    assert made == "" or (made[0].isalnum() and made[-1].isalnum())
    assert all(char.isascii() and (char.isalnum() or char in "._-") for char in made)


def test_two_names_that_differ_have_labels_that_differ():
    assert manifest.label("celery@a") != manifest.label("celery-a")
    assert manifest.label("a" * 80) != manifest.label("a" * 81)


def test_a_template_is_under_what_cellwork_says():
    given_ = {
        "metadata": {"annotations": {"sidecar": "no"}, "labels": {"cellwork.task-id": "forged"}},
        "spec": {
            "hostname": "mine",
            "restartPolicy": "Always",
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "containers": [{"name": "task", "image": "evil", "env": [{"name": "B", "value": "2"}]}],
        },
    }
    made = manifest.pod(launch(pod_template=given_))
    assert made["metadata"]["annotations"]["sidecar"] == "no"
    assert made["metadata"]["labels"]["cellwork.task-id"] == "x"
    assert (made["spec"]["hostname"], made["spec"]["restartPolicy"]) == ("mine", "Never")
    assert {"key": "spot", "operator": "Exists"} in made["spec"]["tolerations"]
    (container,) = made["spec"]["containers"]
    assert container["image"] == "python:3.12"
    assert {one["name"]: one["value"] for one in container["env"]} == {"A": "1", "B": "2"}


def test_a_secret_of_the_clusters_own_is_named_and_the_kubelet_gives_it():
    made = manifest.pod(launch(payload=None, secret_env={"PGPASSWORD": "database/db.password"}))
    template.check("t", made)
    (container,) = made["spec"]["containers"]
    reference = {"secretKeyRef": {"name": "database", "key": "db.password"}}
    assert {"name": "PGPASSWORD", "valueFrom": reference} in container["env"]


@pytest.mark.parametrize(
    "wrong", ["PGPASSWORD", {"A": "database"}, {"A": "../x/y"}, {"A": "a/b/c"}, {"1": "a/b"}, {"A": 1}]
)
def test_what_names_no_key_of_a_secret_is_refused_where_it_is_written(wrong):
    with pytest.raises(InvalidSpec, match="secret_env takes a mapping of environment variables to SECRET/KEY"):
        parse("t", {"secret_env": wrong})


RESTRICTED = {"name": "x", "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"hostPID": True}, "hostPID"),
        ({"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "hostPath"),
        ({"securityContext": {"sysctls": [{"name": "x"}]}}, "sysctls"),
        (
            {"containers": [{"name": "task", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}]},
            "unconfined seccompProfile",
        ),
        ({"initContainers": [{"name": "first", "image": "x"}]}, "new privileges in container first"),
        ({"containers": [{"name": "task", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]}, "added"),
        ({"containers": [{"name": "task", "securityContext": {"runAsUser": 0}}]}, "root in container task"),
        ({"containers": [{"name": "task", "securityContext": {"procMount": "Unmasked"}}]}, "procMount"),
        ({"containers": [{**RESTRICTED, "ports": [{"hostPort": 80}]}]}, "a port of the host in container x"),
        ({"containers": [{**RESTRICTED, "securityContext": {"privileged": True}}]}, "a privileged container x"),
        ({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}, "seLinuxOptions of its own in its pod"),
        (
            {"containers": [{"name": "task", "securityContext": {"seLinuxOptions": {"user": "system_u"}}}]},
            "seLinuxOptions of its own in container task",
        ),
        ({"securityContext": {"windowsOptions": {"hostProcess": True}}}, "hostProcess in its pod"),
        (
            {"containers": [{"name": "task", "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 80}}}]},
            "a host in the livenessProbe of container task",
        ),
        (
            {"containers": [{"name": "task", "lifecycle": {"preStop": {"tcpSocket": {"host": "10.0.0.1"}}}}]},
            "a host in the preStop of container task",
        ),
        (
            {"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]},
            "the service account's token",
        ),
    ],
)
def test_no_template_loosens_a_pod(spec, names):
    made = manifest.pod(launch(pod_template={"spec": spec}))
    with pytest.raises(PolicyViolation, match=rf"task t: its pod is never allowed to have .*{names}"):
        template.check("t", made)


def test_no_annotation_loosens_a_pod():
    name = "container.apparmor.security.beta.kubernetes.io/task"
    for option in ({"annotations": {name: "unconfined"}}, {"pod_template": {"metadata": {"annotations": {name: ""}}}}):
        with pytest.raises(PolicyViolation, match=f"the annotation {name}"):
            template.check("t", manifest.pod(launch(**option)))
    template.check("t", manifest.pod(launch(annotations={name: "runtime/default"})))


def test_a_template_can_come_from_a_file(tmp_path):
    file = tmp_path / "pod.yaml"
    file.write_text("spec:\n  hostname: from-file\n")
    assert parse("t", {"pod_template": str(file)}).pod_template == {"spec": {"hostname": "from-file"}}
    for wrong in (str(tmp_path / "missing.yaml"), ["a"], 7):
        with pytest.raises(InvalidSpec, match="pod_template takes a pod's manifest"):
            parse("t", {"pod_template": wrong})


@pytest.mark.parametrize(("state", "started", "ended"), [("running", True, False), ("terminated", True, True)])
def test_a_containers_state_says_whether_it_runs(state, started, ended):
    one = in_state(**{state: {}})
    assert (status.started(one), status.ended(one)) == (started, ended)


def test_nothing_known_yet_is_neither_started_nor_ended():
    assert not status.started(Pod())
    assert not status.ended(Pod())
    assert status.hindrance(launch(), Pod()) is None


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
def test_an_image_that_cannot_be_pulled_is_said_with_the_kubelets_words(reason):
    error = status.hindrance(launch(), in_state(waiting={"reason": reason, "message": "manifest unknown"}))
    assert isinstance(error, ImageUnavailable)
    assert f"{reason}: manifest unknown" in str(error)
    assert "python:3.12" in str(error)


def test_a_first_failed_pull_is_waited_for():
    assert status.hindrance(launch(), in_state(waiting={"reason": "ErrImagePull", "message": "timeout"})) is None


def test_a_container_that_cannot_be_made_is_the_specs_fault():
    error = status.hindrance(
        launch(), in_state(waiting={"reason": "CreateContainerConfigError", "message": 'secret "x" not found'})
    )
    assert isinstance(error, InvalidSpec)
    assert 'secret "x" not found' in str(error)


def test_what_keeps_it_from_starting_in_time_is_said_with_the_schedulers_words():
    said = "0/3 nodes are available: 3 Insufficient cpu."
    unplaced = pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}])
    assert f"Unschedulable: {said}" in str(status.late(launch(), unplaced))
    assert "start_timeout=300 s" in str(status.late(launch(), unplaced))
    pulling = in_state(waiting={"reason": "ContainerCreating"})
    assert "ContainerCreating" in str(status.late(launch(), pulling))
    assert "nobody has placed it" in str(status.late(launch(), Pod()))


@pytest.mark.parametrize(
    ("terminated", "expected"),
    [
        ({"exitCode": 0, "reason": "Completed"}, (0, False, False, "")),
        ({"exitCode": 3, "reason": "Error"}, (3, False, False, "")),
        ({"exitCode": 137, "reason": "OOMKilled"}, (137, True, False, "OOMKilled")),
        # A child was killed and the container went on: cgroup v1.
        ({"exitCode": 0, "reason": "OOMKilled"}, (0, True, False, "OOMKilled")),
        ({"exitCode": 137, "reason": "Error"}, (137, False, True, "")),
    ],
)
def test_a_containers_end(terminated, expected):
    found = status.exit_of(launch(), in_state(terminated=terminated))
    assert (found.code, found.oom, found.killed, found.detail) == expected


def test_a_program_that_is_not_there_is_the_specs_fault():
    with pytest.raises(InvalidSpec, match="no such file"):
        status.exit_of(
            launch(), in_state(terminated={"exitCode": 128, "reason": "StartError", "message": "no such file"})
        )


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "Evicted: low on memory"),
        ({"phase": "Failed", "reason": "NodeShutdown", "message": ""}, "NodeShutdown"),
        (
            {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
            "PreemptionByScheduler",
        ),
    ],
)
def test_what_the_cluster_does_to_a_pod_is_not_the_tasks_doing(given_, says):
    found = status.exit_of(launch(), pod(**given_))
    assert found.killed
    assert found.detail == says


def test_a_pods_deadline_is_a_time_limit_and_not_a_loss():
    found = status.exit_of(launch(), pod(phase="Failed", reason="DeadlineExceeded", message="too long"))
    assert (found.late, found.killed, found.detail) == (True, False, "DeadlineExceeded: too long")


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (429, "too many requests", EngineUnavailable),
        (503, "etcd leader changed", EngineUnavailable),
        (401, "Unauthorized", EngineUnavailable),
        (403, 'pods "x" is forbidden: exceeded quota: compute', EngineUnavailable),
        (403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest"', PolicyViolation),
        (422, "spec.containers[0].image: Required value", InvalidSpec),
    ],
)
def test_a_refusal_is_the_right_error_with_the_servers_own_sentence(code, message, error):
    said = refusals.refusal(json.dumps({"kind": "Status", "message": message, "code": code}).encode())
    made = refusals.error("for task t in pod x", code, said)
    assert type(made) is error
    assert message in str(made)
    assert "task t" in str(made)


def test_requests_beyond_a_burst_wait_for_their_turn_whoever_makes_them():
    limiter, begun = Limiter(rate=50, burst=2), time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: limiter.acquire(), range(22)))
    assert 0.4 <= time.monotonic() - begun < 5


def test_an_answer_that_is_no_status_is_quoted():
    assert refusals.refusal(b"<html>bad gateway</html>").message == "<html>bad gateway</html>"
    assert refusals.refusal(b"\xff" * 2000).message


def seen(uid: str, phase: str) -> Pod:
    return msgspec.convert({"metadata": {"uid": uid}, "status": {"phase": phase}}, Pod)


def test_a_watch_may_be_ahead_of_the_answer_that_a_pod_is_made():
    """One that had ended by then was waited for until somebody touched it."""
    watched = Watched("cellwork-x-0")
    watched.see(seen("a", "Succeeded"))
    assert not watched.over
    watched.answered(seen("a", "Pending"))
    assert (watched.over, watched.deleted, watched.pod) == (True, False, seen("a", "Succeeded"))


def test_a_watch_may_be_behind_the_answer_that_a_pod_is_made():
    watched = Watched("cellwork-x-0")
    watched.answered(seen("b", "Pending"))
    watched.see(seen("a", "Failed"))
    watched.gone("a")
    assert (watched.over, watched.pod) == (False, seen("b", "Pending"))
    watched.see(seen("b", "Running"))
    watched.gone("b")
    assert (watched.over, watched.deleted) == (True, True)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_end_of_an_earlier_pod_of_its_name_is_not_its_own(when):
    """It was given up as deleted, and ran on beside the one that was started for it."""
    watched, ends = Watched("cellwork-x-0"), []
    watched.on_end = lambda: ends.append(watched.pod)

    def end_of_the_first() -> None:
        watched.see(seen("a", "Failed"))
        watched.gone("a")

    if when == "before":
        end_of_the_first()
    watched.answered(seen("b", "Pending"))
    if when == "after":
        end_of_the_first()
    assert (watched.over, watched.deleted, watched.exists, ends) == (False, False, True, [])
    watched.see(seen("b", "Succeeded"))
    assert ends == [seen("b", "Succeeded")]


def test_a_pod_that_is_replaced_by_one_of_its_name_counts_no_more():
    watched = Watched("cellwork-x-0")
    watched.answered(seen("a", "Failed"))
    watched.anew()
    watched.see(seen("a", "Failed"))
    assert not watched.over
    watched.answered(seen("b", "Pending"))
    watched.gone("a")
    assert (watched.over, watched.pod) == (False, seen("b", "Pending"))


def test_a_pod_whose_creation_nobody_answered_exists_all_the_same():
    watched = Watched("cellwork-x-0")
    assert not watched.exists
    watched.see(seen("a", "Pending"))
    assert watched.exists
    watched.gone("a")
    assert not watched.exists
