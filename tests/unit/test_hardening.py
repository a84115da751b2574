"""The safe defaults, the policy, and what the engine is asked for."""

import weakref

import msgspec
import pytest

from cellwork.errors import InvalidSetting, InvalidSpec, PolicyViolation
from cellwork.spec import ContainerSpec, parse
from cellwork_worker.executors.docker.container import container_config
from cellwork_worker.hardening import SAFE, harden
from cellwork_worker.launch import Launch, sandbox_name, without_task
from cellwork_worker.policy import Policy, check, describe, load, security_options

NOTHING = ContainerSpec()


def spec(**options: object) -> ContainerSpec:
    return harden("shop.parse", parse("shop.parse", {"image": "python:3.12-slim", **options}), NOTHING)


def launch(payload: bytes | None = b"", **options: object) -> Launch:
    return Launch(
        id="cellwork-x-0",
        task="shop.parse",
        task_id="x",
        spec=spec(**options),
        argv=("python3", "-c", "1"),
        env={"A": "b"},
        payload=payload,
        labels={"cellwork.task": "shop.parse"},
    )


def test_a_task_that_asks_for_nothing_gets_the_safe_defaults():
    complete = spec()
    assert complete.network == "none"
    assert complete.user == "65534:65534"
    assert complete.read_only is True
    assert complete.memory == complete.memory_swap == 512 << 20
    assert complete.pids == 256


def test_what_the_task_says_wins_over_the_installation_and_that_over_the_safe_defaults():
    installation = ContainerSpec(memory=1 << 30, pids=10)
    complete = harden("t", ContainerSpec(image="x", pids=20), installation)
    assert (complete.memory, complete.pids, complete.cpus) == (1 << 30, 20, SAFE.cpus)


def test_a_tmpfs_of_the_tasks_own_does_not_take_away_tmp():
    assert spec(tmpfs={"/cache": "1m"}).tmpfs == {"/tmp": 64 << 20, "/cache": 1 << 20}
    assert spec(tmpfs={"/tmp": "1m"}).tmpfs == {"/tmp": 1 << 20}


def test_a_task_without_an_image_is_told_where_to_name_one():
    with pytest.raises(InvalidSpec, match=r"task t: no image; write @app.task\(image="):
        harden("t", NOTHING, NOTHING)


@pytest.mark.parametrize("network", ["host", "container:redis", "default"])
def test_another_ones_network_is_never_allowed(network):
    with pytest.raises(PolicyViolation, match="never allowed"):
        check("t", spec(network=network), Policy(networks=("*",)))


@pytest.mark.parametrize("volume", ["/:/host", "/var/run/docker.sock:/s", "/data/../etc:/e", "/data/docker.sock:/s"])
def test_dangerous_mounts_are_never_allowed(volume):
    with pytest.raises(PolicyViolation, match="never allowed"):
        check("t", spec(volumes=[volume]), Policy(volumes=("/",)))


def test_a_link_in_an_allowed_folder_leads_nowhere_else(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "out").symlink_to("/etc")
    (tmp_path / "data" / "in").symlink_to(tmp_path / "data")
    allowed = Policy(volumes=(str(tmp_path / "data"),))
    with pytest.raises(PolicyViolation, match="is not allowed on this worker"):
        check("t", spec(volumes=[f"{tmp_path}/data/out:/out"]), allowed)
    check("t", spec(volumes=[f"{tmp_path}/data/in:/in"]), allowed)


def test_host_folders_need_an_entry_in_the_policy():
    with pytest.raises(PolicyViolation, match="allowed folders: none"):
        check("t", spec(volumes=["/data/in:/in:ro"]), Policy())
    with pytest.raises(PolicyViolation, match="allowed folders: /data"):
        check("t", spec(volumes=["/database:/in"]), Policy(volumes=("/data",)))
    check("t", spec(volumes=["/data/in:/in:ro"]), Policy(volumes=("/data",)))
    check("t", spec(volumes=["cache:/cache"]), Policy(volumes=("cache",)))


@pytest.mark.parametrize(
    ("options", "policy", "names"),
    [
        ({}, Policy(images=("shop/*",)), "image='python:3.12-slim'.*shop/"),
        ({"network": "office"}, Policy(), "network='office'.*none, bridge"),
        ({"runtime": "runsc"}, Policy(), "runtime='runsc'.*none"),
        ({"devices": ["/dev/kvm"]}, Policy(), "devices='/dev/kvm'"),
        ({"gpus": 1}, Policy(), r"gpus=1 .*\(0\)"),
        ({"memory": "2g"}, Policy(max_memory=1 << 30), r"memory=2 GiB .*\(1 GiB\)"),
        ({"cpus": 3}, Policy(max_cpus=2), r"cpus=3.0 .*\(2\)"),
        ({"pids": 5000}, Policy(), r"pids=5000 .*\(4096\)"),
    ],
)
def test_a_refusal_names_task_field_value_and_what_is_allowed(options, policy, names):
    with pytest.raises(PolicyViolation, match=f"task t: {names}"):
        check("t", spec(**options), policy)


def test_the_engine_is_asked_for_every_protection():
    config = container_config(launch(), 1000)
    host = config["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == "none"
    assert host["Privileged"] is False
    assert host["Memory"] == host["MemorySwap"] == 512 << 20
    assert host["PidsLimit"] == 256
    assert host["NanoCpus"] == 10**9
    assert config["User"] == "65534:65534"
    assert config["Healthcheck"] == {"Test": ["NONE"]}


def test_an_images_entry_point_cannot_stand_before_the_runner():
    config = container_config(launch(entrypoint=["evil"]), 1000)
    assert config["Entrypoint"] == ["python3"]
    assert config["Cmd"] == ["-c", "1"]


def test_a_command_task_keeps_the_images_entry_point_unless_it_names_one():
    assert "Entrypoint" not in container_config(launch(payload=None), 1000)
    assert container_config(launch(payload=None, entrypoint="/bin/sh"), 1000)["Entrypoint"] == ["/bin/sh"]


def test_options_are_spelled_as_the_engine_spells_them():
    host = container_config(
        launch(
            ulimits={"nofile": 10, "core": (0, 1)},
            devices=["/dev/fuse", "/dev/sda:/dev/xvdc:r"],
            extra_hosts={"db": "10.0.0.1"},
            dns="1.1.1.1",
            gpus=2,
            volumes=["a:/a:ro"],
            tmpfs={"/tmp": 5},
        ),
        1000,
    )["HostConfig"]
    assert host["Ulimits"] == [
        {"Name": "nofile", "Soft": 10, "Hard": 10},
        {"Name": "core", "Soft": 0, "Hard": 1},
    ]
    assert host["Devices"][0] == {
        "PathOnHost": "/dev/fuse",
        "PathInContainer": "/dev/fuse",
        "CgroupPermissions": "rwm",
    }
    assert host["Devices"][1]["PathInContainer"] == "/dev/xvdc"
    assert host["ExtraHosts"] == ["db:10.0.0.1"]
    assert host["Dns"] == ["1.1.1.1"]
    assert host["DeviceRequests"][0]["Count"] == 2
    assert host["Binds"] == ["a:/a:ro"]
    assert host["Tmpfs"] == {"/tmp": "rw,nosuid,nodev,size=5,mode=1777"}


def test_a_sandboxs_name_is_the_same_wherever_it_is_made_and_safe_for_any_task_id():
    assert sandbox_name("12345678-1234", 0) == "cellwork-12345678-1234-0"
    assert sandbox_name("12345678-1234", 2, 1) == "cellwork-12345678-1234-2-1"
    names = {sandbox_name(task_id, 0) for task_id in ("a b", "a/b", "../a", "x" * 300, "ü", "")}
    assert len(names) == 6
    assert all(name.replace("-", "").isalnum() and len(name) < 64 for name in names)


@pytest.mark.parametrize(
    ("given", "options", "refused"),
    [
        ({"digest_required": True}, {}, "wants a digest"),
        ({}, {"seccomp": "mine"}, "seccomp='mine' is not allowed"),
        ({"apparmor": ("*",)}, {"apparmor": "unconfined"}, "apparmor='unconfined' is not allowed"),
        ({"max_shm_size": "32m"}, {}, r"shm_size=64 MiB is more than this worker allows \(32 MiB\)"),
        ({"max_tmpfs": "1g"}, {"tmpfs": {"/big": "2g"}}, "tmpfs=2 GiB is more"),
        ({"max_memory": "256m"}, {}, "memory=512 MiB is more"),
        (
            {"max_memory_swap": "1g"},
            {"memory_swap": "2g"},
            r"memory_swap=2 GiB is more than this worker allows \(1 GiB\)",
        ),
        ({}, {"log_max": "1g"}, r"log_max=1 GiB is more than this worker allows \(64 MiB\)"),
        ({}, {"ulimits": {"nofile": 100_000}}, r"ulimits=nofile: 100000 is more than this worker allows \(65536\)"),
        ({}, {"ulimits": {"nofile": (9, -1)}}, "ulimits=nofile"),
        ({"max_ulimits": {"nproc": 10}}, {"ulimits": {"nproc": 11}}, "ulimits=nproc: 11 is more"),
        ({"writable_root": False}, {"read_only": False}, "read_only=False is not allowed.*tmpfs="),
    ],
)
def test_the_policy_refuses_what_it_does_not_give(given, options, refused):
    with pytest.raises(PolicyViolation, match=refused):
        check("t", spec(**options), load(given))


def test_an_image_with_a_digest_passes_where_one_is_required():
    check("t", spec(image="shop@sha256:" + "0" * 64), load({"digest_required": True}))


def test_profiles_that_the_policy_has_reach_the_engine_as_it_wants_them(tmp_path):
    profile = tmp_path / "strict.json"
    profile.write_text('{"defaultAction":\n "SCMP_ACT_ERRNO"}')
    policy = load({"seccomp": {"strict": str(profile)}, "apparmor": ["cellwork-*"]})
    asked = spec(seccomp="strict", apparmor="cellwork-strict")
    check("t", asked, policy)
    assert security_options(asked, policy) == (
        'seccomp={"defaultAction": "SCMP_ACT_ERRNO"}',
        "apparmor=cellwork-strict",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_memory": "12 potatoes"}, "max_memory='12 potatoes' is not accepted"),
        ({"imagse": ["*"]}, "unknown field `imagse`.*its fields are images"),
        ({"seccomp": {"x": "/nowhere.json"}}, "cannot be read"),
        ({"seccomp": {"x": __file__}}, "is not JSON"),
    ],
)
def test_a_wrong_policy_is_refused_with_what_is_accepted(given, message):
    with pytest.raises(InvalidSetting, match=message):
        load(given)


def test_the_description_names_what_is_allowed_and_what_never_is():
    words = describe(load({"images": ["shop/*"], "max_memory": "8g"}))
    assert words["images"] == "shop/*"
    assert "8 GiB memory" in words["most"]
    assert "privileged" in words["never"]


@pytest.mark.parametrize(("written", "meant"), [("INT", "SIGINT"), ("SIGUSR1", "SIGUSR1"), ("term", "SIGTERM")])
def test_a_stop_signal_is_spelled_as_kill_or_docker_spell_it(written, meant):
    assert spec(stop_signal=written).stop_signal == meant
    with pytest.raises(InvalidSpec, match="takes the name of a signal"):
        spec(stop_signal="SIGNOTHING")


def test_what_is_kept_to_start_others_like_it_holds_nothing_of_the_task():
    class TaskOfOne:
        def note(self, name: str) -> bool:
            return False

        def confirm(self) -> None:
            raise AssertionError("it is over")

    task = TaskOfOne()
    one = msgspec.structs.replace(launch(b"codetask"), ahead=4, note=task.note, confirm=task.confirm)
    kept, gone = without_task(one), weakref.ref(task)
    del task, one
    assert (kept.payload, kept.note("name"), gone()) == (b"code", True, None)
    kept.confirm()
