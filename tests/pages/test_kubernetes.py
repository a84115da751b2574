"""The lines of k8s/'s pages: kubectl's against an API server that keeps what it takes, the engine's on the engine."""

import re

import pytest
import yaml
from emulator.cluster import write_kubeconfig
from emulator.objects import objects
from pages.blocks import ROOT

OVERLAYS = sorted(path.name for path in (ROOT / "k8s/overlays").iterdir())


@pytest.fixture
def server(reader, tmp_path):
    reader.where = ROOT
    with objects() as server:
        reader.env |= {"KUBECONFIG": str(write_kubeconfig(tmp_path, server.url)), "HOME": str(tmp_path)}
        yield server


def test_the_namespaces_the_secret_and_the_overlay_are_taken_by_an_api_server(reader, server):
    printed = reader.types_page("k8s/README.md")
    secret = server.objects["Secret", "cellwork", "cellwork"]
    assert set(secret["data"]) == {"redis-password", "broker-url", "result-backend", "flower-login"}
    (applied,) = [text for line, text in printed.items() if "apply -k" in line]
    assert {("Deployment", "cellwork", "dispatcher"), ("Role", "cellwork-tasks", "dispatcher")} <= set(server.objects)
    assert len(re.findall(" created$", applied, re.MULTILINE)) == len(server.objects) - 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_line_of_each_overlays_page_is_taken(reader, server, overlay):
    (line,) = set(
        re.findall(r"`(kubectl apply -k [^`]+)`", (ROOT / "k8s/overlays" / overlay / "README.md").read_text())
    )
    reader.succeeds(line)
    assert ("Deployment", "cellwork", "dispatcher") in server.objects


def test_an_api_server_refuses_what_is_misspelt(reader, server, tmp_path):
    wrong = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "one", "lables": {}}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    assert "lables" in reader.types(f"kubectl apply -f {tmp_path / 'wrong.yaml'}")
    assert server.objects == {}
