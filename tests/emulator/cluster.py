"""The cluster that tests run on: emulated, or the real one that CELLWORK_TEST_KUBECONFIG names."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emulator.apiserver import ApiServer
from emulator.node import Node
from kubernetes import client, config


@dataclass
class Cluster:
    """What a test needs to know of it."""

    kubeconfig: Path
    namespace: str
    #: With a shell, coreutils and Python.
    image: str
    #: None: it is a real one, in which nobody can order faults.
    server: ApiServer | None = None
    node: Node | None = None

    @property
    def api(self) -> client.CoreV1Api:
        """As a user's kubectl sees it."""
        return client.CoreV1Api(config.new_client_from_config(str(self.kubeconfig)))

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
        with _namespace(Path(path)) as name:
            yield Cluster(Path(path), name, os.environ["CELLWORK_TEST_IMAGE"])
        return
    node = Node(f"cellwork.emulated-node={uuid.uuid4().hex[:12]}")
    server = ApiServer(node.logs)
    node.serve(server.store)
    try:
        yield Cluster(write_kubeconfig(folder, server.url), "jobs", "cellwork/python:base", server, node)
    finally:
        server.close()
        node.close()


def write_kubeconfig(folder: Path, url: str) -> Path:
    """A kubeconfig whose current context is the server at `url`, namespace ``jobs``."""
    path = folder / "kubeconfig"
    context = {"name": "emulated", "context": {"cluster": "emulated", "user": "tests", "namespace": "jobs"}}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "emulated",
                "clusters": [{"name": "emulated", "cluster": {"server": url}}],
                "users": [{"name": "tests", "user": {"token": "emulated"}}],
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
