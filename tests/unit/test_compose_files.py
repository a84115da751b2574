"""compose/: that its files say the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
TEXT = (COMPOSE / "compose.yaml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]


def example() -> dict[str, str]:
    lines = (COMPOSE / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_of_the_environment_has_every_variable_with_its_default():
    used = dict(re.findall(r"(?<!\$)\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", TEXT))
    assert {**example(), "COMPOSE_PROJECT_NAME": ""} == {**used, "COMPOSE_PROJECT_NAME": ""}


@pytest.mark.parametrize("name", ["worker", "kubernetes-worker"])
def test_a_worker_has_the_time_to_leave_in_good_order(name):
    grace = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert grace >= int(SERVICES[name]["environment"]["CELLWORK_DRAIN_SECONDS"]) + 15


def test_what_is_published_is_published_on_this_machine_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_has_every_dependency_pinned():
    pinned = {
        canonicalize_name(found[1]): found[2]
        for found in re.finditer(r"^([\w.-]+)==([\w.]+)", (COMPOSE / "requirements.txt").read_text(), re.MULTILINE)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in [
        *project["dependencies"],
        *(line for extra in ("docker", "kubernetes", "flower", "cli", "otel") for line in extras[extra]),
    ]:
        wanted = Requirement(line)
        version = pinned.get(canonicalize_name(wanted.name))
        assert version, f"{wanted.name} is not in compose/requirements.txt; run scripts/lock.sh"
        assert wanted.specifier.contains(version), f"{line}: {version} is pinned; run scripts/lock.sh"
