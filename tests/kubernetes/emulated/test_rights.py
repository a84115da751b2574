"""What a worker may do: all that it does with the rights of k8s/, and no more; inside a cluster it is its account."""

import ssl
import subprocess

import msgspec
import pytest
from emulator.apiserver import ApiServer, dispatchers_rights
from kubernetes.config import incluster_config
from podruns import INSTALLATION, Running, launch
from waiting import wait_until

from cellwork_worker.executors.kubernetes import KubernetesExecutor, connection, samples


def test_a_worker_uses_every_right_that_it_is_given_and_no_other(make_executor, server, monkeypatch):
    monkeypatch.setattr(samples, "_PERIOD", 0.1)
    # The server refuses all others, here and in every other test.
    server.used.clear()
    first, second = make_executor("one"), make_executor("two")
    one = msgspec.structs.replace(launch("echo first; sleep 1; cat", b"payload"), keep=True)
    run = Running(first, one)
    run.wait_output(b"first")
    first.abandon(one.id)
    assert Running(second, one).exit().adopted
    second.discard(one.id)
    second._remover.wait()
    # What only a pod that runs for a while needs.
    long = Running(first, launch("sleep 300"))
    assert long.started.wait(60)
    wait_until(lambda: server.used >= dispatchers_rights(), timeout=60, what="all rights to be used")
    first.stop(long.launch.id, 9)
    long.exit()
    assert server.used == dispatchers_rights()


@pytest.fixture
def inside(tmp_path, monkeypatch, node):
    """As in a pod: an API server behind TLS, its address in the environment, and the account's files."""
    cert, key = tmp_path / "ca.crt", tmp_path / "key.pem"
    names = ["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = ApiServer(node.logs, context)
    (tmp_path / "token").write_text("of-the-account")
    (tmp_path / "namespace").write_text("jobs-inside\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(cert))
    monkeypatch.setattr(connection, "_NAMESPACE_FILE", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    yield server
    server.close()


def test_inside_a_cluster_a_worker_is_its_service_account(inside):
    asked = []
    given = inside.allowed
    inside.allowed = lambda verb, resource: bool(asked.append((verb, resource))) or given(verb, resource)
    executor = KubernetesExecutor(installation=INSTALLATION, worker="one")
    health = executor.check()
    assert health.ok, health.detail
    assert health.facts["namespace"] == "jobs-inside"
    assert health.facts["address"] == f"https://127.0.0.1:{inside.port}"
    assert executor.sandboxes() == []
    assert ("list", "pods") in asked
    assert {token.lower() for token in inside.tokens} == {"bearer of-the-account"}
