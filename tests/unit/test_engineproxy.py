"""What passes the engine's proxy, and what does not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwork.spec import ContainerSpec
from cellwork_worker.engineproxy import calls, containers
from cellwork_worker.engineproxy.calls import Refused
from cellwork_worker.engineproxy.containers import Allowed
from cellwork_worker.executors.docker.container import container_config
from cellwork_worker.hardening import harden
from cellwork_worker.launch import Launch

OURS = {"cellwork.installation": "shop"}
ALLOWED = Allowed(installation="shop", networks=frozenset({"shop-net"}), volumes=("/srv/data", "cache"))
LIST = "/v1.41/containers/json?filters=%7B%22label%22%3A%5B%22cellwork.installation%3Dshop%22%5D%7D"


def sandbox(**options) -> dict:
    """What the executor asks the engine for."""
    spec = harden("shop.parse", ContainerSpec(image="python:3.12", **options), ContainerSpec())
    launch = Launch(
        id="cellwork-1-0",
        task="shop.parse",
        task_id="1",
        spec=spec,
        argv=("python3",),
        env={},
        payload=b"",
        labels=OURS,
    )
    return container_config(launch, 1 << 20)


def created(config: dict) -> dict:
    body, _ = containers.check(json.dumps(config).encode(), ALLOWED)
    return json.loads(body)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"network": "bridge", "dns": ["10.0.0.1"], "extra_hosts": {"db": "10.0.0.2"}},
        {"network": "shop-net", "volumes": ["/srv/data/in:/in:ro", "cache:/cache"]},
        {"workdir": "/srv", "hostname": "h", "runtime": "runsc", "user": "1000", "ulimits": {"nofile": 10}},
    ],
)
def test_what_the_executor_asks_for_goes_on_unchanged(options):
    config = sandbox(**options)
    asked, got = dict(config), created(config)
    hosts = asked.pop("HostConfig"), got.pop("HostConfig")
    for before, after in ((asked, got), hosts):
        assert {k: v for k, v in before.items() if v} == {k: v for k, v in after.items() if v}


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [
        ("HostConfig", "Privileged", True),
        ("HostConfig", "privileged", True),
        ("HostConfig", "PidMode", "host"),
        ("HostConfig", "UsernsMode", "host"),
        ("HostConfig", "CapAdd", ["SYS_ADMIN"]),
        ("HostConfig", "CapDrop", []),
        ("HostConfig", "SecurityOpt", ["no-new-privileges:true", "seccomp=unconfined"]),
        ("HostConfig", "SecurityOpt", []),
        ("HostConfig", "Devices", [{"PathOnHost": "/dev/sda"}]),
        ("HostConfig", "Mounts", [{"Type": "bind", "Source": "/", "Target": "/host"}]),
        ("HostConfig", "VolumesFrom", ["engine"]),
        ("HostConfig", "CgroupParent", "/"),
        ("HostConfig", "IpcMode", "host"),
        ("HostConfig", "NetworkMode", "host"),
        ("HostConfig", "NetworkMode", ""),
        ("HostConfig", "NetworkMode", "cellwork_backend"),
        ("HostConfig", "Binds", ["/:/host"]),
        ("HostConfig", "Binds", ["/srv/data/../../etc:/etc2"]),
        ("HostConfig", "Binds", ["/srv/database:/data"]),
        ("HostConfig", "Binds", ["/srv/data:/data:shared"]),
        ("HostConfig", "Binds", ["engine:/run/engine"]),
        ("HostConfig", "LogConfig", {"Type": "syslog", "Config": {"syslog-address": "tcp://evil.example"}}),
        ("HostConfig", "Memory", 0),
        ("HostConfig", "PidsLimit", -1),
        ("", "hostconfig", {"Privileged": True}),
        ("", "NetworkingConfig", {"EndpointsConfig": {"cellwork_backend": {}}}),
        ("", "Labels", {}),
        ("", "Labels", {"cellwork.installation": "another"}),
    ],
)
def test_what_no_sandbox_needs_is_refused(where, field, value):
    config = sandbox()
    (config[where] if where else config)[field] = value
    with pytest.raises(Refused):
        created(config)


def test_a_field_given_twice_means_to_the_engine_what_was_checked():
    config = json.dumps(sandbox())
    twice = config.replace('"HostConfig":', '"HostConfig": {"Privileged": true}, "HostConfig":', 1)
    body, _ = containers.check(twice.encode(), ALLOWED)
    assert b"Privileged" not in body


def test_the_container_whose_network_is_joined_is_named_so_that_it_can_be_looked_at():
    config = sandbox()
    config["HostConfig"]["NetworkMode"] = "container:cellwork-holder-1"
    assert containers.check(json.dumps(config).encode(), ALLOWED)[1] == "cellwork-holder-1"


@given(st.binary() | st.recursive(st.none() | st.text(), lambda x: st.lists(x)).map(lambda x: json.dumps(x).encode()))
def test_anything_else_is_refused_and_nothing_breaks(body):
    with pytest.raises(Refused):
        containers.check(body, ALLOWED)


@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [
        ("GET", "/_ping", "_ping"),
        ("GET", LIST, "json"),
        ("POST", "/v1.41/containers/create?name=cellwork-1-0", "create"),
        ("POST", "/v1.41/containers/cellwork-1-0/attach?stdin=1&stream=1", "attach"),
        ("DELETE", "/v1.41/containers/cellwork-1-0?force=True&v=True", ""),
        ("GET", "/v1.41/images/shop/python%40sha256:12/json", ""),
        ("POST", "/v1.41/images/create?fromImage=python%3A3.12", ""),
        ("POST", "/v1.41/build?t=cellwork%2Fshop%3A0123456789ab", "build"),
    ],
)
def test_what_a_worker_calls_passes(method, target, kind):
    assert calls.check(method, target, "shop").kind == kind


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1.41/containers/json"),
        ("GET", LIST.replace("shop", "other")),
        ("GET", LIST + "&filters=%7B%7D"),
        ("GET", "/v1.41/events"),
        ("GET", "/v1.41/images/json"),
        ("POST", "/v1.41/containers/cellwork-1-0/exec"),
        ("POST", "/v1.41/containers/cellwork-1-0/update"),
        ("POST", "/v1.41/containers/prune"),
        ("GET", "/v1.41/containers/cellwork-1-0/archive?path=/"),
        ("GET", "/v1.41/containers/../json"),
        ("GET", "/v1.41/containers/a%2F..%2Fb/json"),
        ("GET", "//containers/a/json"),
        ("POST", "/v1.41/images/create?fromSrc=-&repo=cellwork-cluster/worker"),
        ("POST", "/v1.41/images/load"),
        ("POST", "/v1.41/images/python/tag?repo=cellwork-cluster/worker"),
        ("POST", "/v1.41/build?t=cellwork-cluster%2Fworker%3Adev"),
        ("POST", "/v1.41/build?t=cellwork%2Fshop%3A0123456789ab&networkmode=host"),
        ("POST", "/v1.41/networks/create"),
        ("POST", "/v1.41/volumes/create"),
        ("GET", "/v1.41/swarm"),
        ("POST", "/_ping"),
    ],
)
def test_every_other_call_is_refused(method, target):
    with pytest.raises(Refused, match=r"engine's proxy|not there|more than once|listed|built"):
        calls.check(method, target, "shop")


def test_a_call_goes_on_with_the_containers_id_and_its_parameters_written_anew():
    call = calls.check("GET", "/v1.41/containers/containers/logs?follow=1&tail=%0a", "shop")
    assert call.target("ab" * 32) == f"/v1.41/containers/{'ab' * 32}/logs?follow=1&tail=%0A"
