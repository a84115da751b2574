"""Each option, as the engine carries it out: seen from inside a real container. And what it refuses."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from cellwork.errors import InvalidSpec
from cellwork.spec import ContainerSpec, parse
from cellwork_worker.executors.base import STDOUT
from cellwork_worker.executors.docker import DockerExecutor
from cellwork_worker.hardening import harden
from cellwork_worker.launch import Launch, labels, worker_labels

BUSYBOX = "cellwork/busybox:base"


@pytest.fixture(scope="module")
def executor(engine, installation) -> Iterator[DockerExecutor]:
    executor = DockerExecutor(installation=installation, worker="options")
    yield executor
    executor.sweep(frozenset())


@pytest.fixture
def run(executor, installation) -> Callable[..., str]:
    """What a script prints, in a sandbox of these options."""

    def run(script: str, **options: object) -> str:
        spec = harden("t", parse("t", {"image": BUSYBOX, "memory": "64m", "pull": "never", **options}), ContainerSpec())
        launch = Launch(
            id=f"cellwork-{uuid.uuid4().hex}-0",
            task="t",
            task_id="t",
            spec=spec,
            argv=("sh", "-c", script),
            env=spec.env or {},
            payload=None,
            labels={**(spec.labels or {}), "cellwork.installation": installation, "cellwork.worker": "options"},
        )
        printed = []
        executor.run(launch, lambda stream, chunk: bool(stream == STDOUT and printed.append(chunk)))
        return b"".join(printed).decode().strip()

    return run


@pytest.fixture
def named_network(engine, installation) -> Iterator[str]:
    network = engine.networks.create(f"cellwork-{uuid.uuid4().hex[:8]}", internal=True)
    yield network.name
    network.remove()


@pytest.mark.parametrize(
    ("options", "script", "seen"),
    [
        ({"workdir": "/var/tmp/mine"}, "pwd", "/var/tmp/mine"),
        ({"env": {"A": "1 2", "B": ""}}, 'echo "$A-$B"', "1 2-"),
        ({"user": "1234:4321"}, "id -u; id -g", "1234\n4321"),
        ({"user": "root"}, "id -u", "0"),
        ({"hostname": "node-7"}, "hostname", "node-7"),
        ({"platform": "linux/amd64"}, "uname -m", "x86_64"),
        (
            {"memory": "48Mi"},
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max",
            str(48 << 20),
        ),
        ({"cpus": "500m"}, "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us || cut -d' ' -f1 /sys/fs/cgroup/cpu.max", "50000"),
        ({"pids": 17}, "cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max", "17"),
        ({"shm_size": "3m"}, "df -k /dev/shm | tail -n 1 | awk '{print $2}'", "3072"),
        ({"tmpfs": {"/scratch": "5Mi"}}, "df -k /scratch | tail -n 1 | awk '{print $2}'; touch /tmp/x", "5120"),
        ({"ulimits": {"nofile": (100, 200), "core": 0}}, "ulimit -Sn; ulimit -Hn; ulimit -c", "100\n200\n0"),
        ({"read_only": False, "user": "0:0"}, "touch /new && echo written", "written"),
        ({"read_only": True, "user": "0:0"}, "touch /new || echo refused", "refused"),
        ({"network": "none"}, "ls /sys/class/net", "lo"),
        ({"network": "bridge"}, "ls /sys/class/net | tr '\\n' ' '", "eth0 lo"),
        ({"network": "bridge", "dns": ["10.9.8.7"]}, "grep nameserver /etc/resolv.conf", "nameserver 10.9.8.7"),
        ({"extra_hosts": {"db": "10.0.0.5"}}, "grep -w db /etc/hosts | tr '\\t' ' '", "10.0.0.5 db"),
        ({"devices": ["/dev/null:/dev/mine:r"]}, "ls /dev/mine", "/dev/mine"),
        ({"runtime": "runc"}, "echo ran", "ran"),
        ({"entrypoint": ["sh", "-c", "echo entered"]}, "", "entered"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_an_option_is_in_force_inside(run, options, script, seen):
    assert run(script, **options) == seen


def test_swap_is_what_is_beyond_the_memory(run):
    assert run("cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes 2>/dev/null || echo 0", memory_swap="96m") in (
        str(96 << 20),
        "0",  # a kernel that counts no swap
    )


def test_a_named_network_is_joined(run, named_network):
    assert run("ls /sys/class/net | tr '\\n' ' '", network=named_network) == "eth0 lo"


def test_a_volume_is_there_and_read_only_where_it_says_so(run, tmp_path):
    (tmp_path / "given").write_text("from the host")
    tmp_path.chmod(0o777)
    assert run("cat /in/given; touch /in/new || echo refused", volumes=[f"{tmp_path}:/in:ro"]) == "from the hostrefused"
    run("echo back >/out/new", volumes=[f"{tmp_path}:/out"])
    assert (tmp_path / "new").read_text() == "back\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus": 1}, "could not select device driver"),
        ({"user": "nosuchuser"}, "unable to find user nosuchuser"),
        ({"runtime": "runsc"}, "runsc"),
        ({"network": "cellwork-nowhere"}, "network cellwork-nowhere not found"),
        ({"devices": ["/dev/cellwork-nowhere"]}, "/dev/cellwork-nowhere"),
        ({"cpus": 5000}, "Range of CPUs is from"),
        ({"memory": "1m"}, "Minimum memory limit"),
        ({"volumes": ["data:/data:sideways"]}, "invalid mode: sideways"),
    ],
)
def test_what_the_host_cannot_give_is_refused_at_once_with_the_engines_word(run, options, said):
    with pytest.raises(InvalidSpec, match=rf"task t: the engine refuses sandbox cellwork-.*{said}.*Change what"):
        run("true", **options)


def test_the_tasks_labels_are_kept_and_ours_cannot_be_replaced():
    spec = parse("t", {"labels": {"team": "blue", "cellwork.task": "forged"}})
    found = labels(worker_labels("home", "w", "", ""), "shop.parse", "id", spec)
    assert (found["team"], found["cellwork.task"]) == ("blue", "shop.parse")
