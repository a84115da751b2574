"""The cluster that tests run on: emulated, or the real one that CELLWORK_TEST_KUBECONFIG names."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from emulator.apiserver import ApiServer
from emulator.node import Node
from kubernetes import client, config, utils

#: The rights that a worker is given where k8s/ is used. Tests on a real cluster have these and no others.
RBAC = Path(__file__).parents[2] / "k8s/base/rbac.yaml"

#: Seconds for which the worker's token is good; longer than any run of the tests.
_TOKEN_SECONDS = 4 * 3600


@dataclass
class Cluster:
    """What a test needs to know of it."""

    #: A worker's: with the rights of k8s/base/rbac.yaml.
    kubeconfig: Path
    namespace: str
    #: With a shell, coreutils and Python.
    image: str
    #: None: it is a real one, in which nobody can order faults.
    server: ApiServer | None = None
    node: Node | None = None
    #: Of whoever may do all.
    admin: Path | None = None

    @cached_property
    def api(self) -> client.CoreV1Api:
        """As an administrator's kubectl sees it."""
        return client.CoreV1Api(config.new_client_from_config(str(self.admin or self.kubeconfig)))

    def left(self) -> list[str]:
        """Names of pods and Secrets that are there."""
        api = self.api
        pods = api.list_namespaced_pod(self.namespace, label_selector="app.kubernetes.io/managed-by=cellwork").items
        if self.server is not None:
            secrets = [one["metadata"]["name"] for one in self.server.store.listed("secrets", self.namespace)[0]]
        else:
            label = "app.kubernetes.io/managed-by=cellwork"
            secrets = [s.metadata.name for s in api.list_namespaced_secret(self.namespace, label_selector=label).items]
        return [f"pod {pod.metadata.name}" for pod in pods] + [f"secret {name}" for name in secrets]


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Ready to use; nothing of it is left afterwards."""
    if (path := os.environ.get("CELLWORK_TEST_KUBECONFIG")) is not None:
        admin = Path(path)
        with _namespace(admin) as name:
            yield Cluster(_worker(admin, name, folder), name, os.environ["CELLWORK_TEST_IMAGE"], admin=admin)
        return
    node = Node(f"cellwork.emulated-node={uuid.uuid4().hex[:12]}")
    server = ApiServer(node.logs)
    node.serve(server.store)
    server.metrics = node.metrics
    try:
        admin = write_kubeconfig(folder, server.url, "admin")
        yield Cluster(write_kubeconfig(folder, server.url), "jobs", "cellwork/python:base", server, node, admin)
    finally:
        server.close()
        node.close()


def write_kubeconfig(folder: Path, url: str, token: str = "dispatcher") -> Path:
    """A kubeconfig whose current context is the server at `url`, namespace ``jobs``."""
    return kubeconfig(folder / f"{token}.kubeconfig", {"server": url}, token, "jobs")


def kubeconfig(path: Path, server: dict[str, str], token: str, namespace: str) -> Path:
    """Written to `path`; `server`: as a kubeconfig has it."""
    context = {"name": "tests", "context": {"cluster": "tests", "user": "tests", "namespace": namespace}}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "tests",
                "clusters": [{"name": "tests", "cluster": server}],
                "users": [{"name": "tests", "user": {"token": token}}],
                "contexts": [context],
            }
        )
    )
    return path


@contextmanager
def _namespace(kubeconfig: Path) -> Iterator[str]:
    """One of this run's own in a real cluster, held to the Pod Security Standard "restricted"."""
    api = client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))
    name = f"cellwork-tests-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.create_namespace({"metadata": {"name": name, "labels": labels}})
    try:
        yield name
    finally:
        api.delete_namespace(name)


def _worker(admin: Path, namespace: str, folder: Path) -> Path:
    """A kubeconfig of the dispatcher's service account, with its Role, both in `namespace`."""
    api = config.new_client_from_config(str(admin))
    for document in yaml.safe_load_all(RBAC.read_text()):
        if document["metadata"]["name"] == "dispatcher":
            document["metadata"]["namespace"] = namespace
            for subject in document.get("subjects", ()):
                subject["namespace"] = namespace
            utils.create_from_dict(api, document)
    asked = {"spec": {"expirationSeconds": _TOKEN_SECONDS}}
    given = client.CoreV1Api(api).create_namespaced_service_account_token("dispatcher", namespace, asked)
    server = {"server": api.configuration.host}
    if (authority := api.configuration.ssl_ca_cert) is not None:
        server["certificate-authority"] = str(authority)
    return kubeconfig(folder / "kubeconfig", server, given.status.token, namespace)
