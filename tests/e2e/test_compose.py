"""compose/: the cluster that people start, brought up from nothing, used from the host, broken, and taken down."""

import base64
import os
import re
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from docker.errors import ImageNotFound
from pages import consoles
from pages.blocks import ROOT
from pages.claims import the_line, the_lines
from ports import free_port
from waiting import wait_until

#: Seconds: whichever test is first waits for the images, which takes minutes where nothing is cached.
pytestmark = pytest.mark.timeout(900)

#: What the cluster is made of.
PARTS = ("compose", "k8s", "tests", "queue", "workers", "scripts")
FILES = ("pyproject.toml", "README.md", "LICENSE", ".dockerignore")

PAGE = "compose/README.md"

KINDS_PAGE = "k8s/overlays/kind/README.md"

#: Compose's arguments for the profile, with what stands in for k3s.
KUBERNETES = ("--file", "tests/e2e/k3s.yaml", "--profile", "kubernetes")


#: A task of an application that keeps files.
KEEP = """

@app.task(memory="128m")
def keep(given, kept):
    with open(f"/data/{given}") as source, open(f"/data/{kept}", "w") as target:
        target.write(text := source.read())
    return text
"""


def checkout(folder: Path) -> Path:
    """A copy of the project, in which a .env may be written."""
    folder.mkdir()
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", ".env"))
    for file in FILES:
        shutil.copy(ROOT / file, folder)
    return folder


class Cluster:
    """One, started as its page says, under a name of its own."""

    def __init__(self, engine, folder: Path) -> None:
        """`folder`: of this host's, for a copy of the project, and for what tasks and pods mount."""
        self.engine = engine
        self.root = root = checkout(folder / "cellwork")
        self.volume, self.mark = folder / "data", f"cellwork.emulated-node={uuid.uuid4().hex[:12]}"
        (folder / "pods").mkdir()
        self.volume.mkdir()
        self.volume.chmod(0o777)
        app = root / "compose" / "app"
        for name, added in (("cellwork.toml", f'volumes = ["{self.volume}"]\n'), ("shop/tasks.py", KEEP)):
            with (app / name).open("a") as file:
                file.write(added)
        self.project = f"cellwork-e2e-{uuid.uuid4().hex[:8]}"
        self.flower = f"http://127.0.0.1:{(flower := free_port())}"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "CELLWORK_"))}
        self.env["PATH"] = consoles.path()
        copy, passwords = the_lines(PAGE, "cp compose/.env.example", "sed -i")
        self.types(copy)
        self.types(passwords)
        with (root / "compose/.env").open("a") as file:
            for name, value in {
                "COMPOSE_PROJECT_NAME": self.project,
                "REDIS_PORT": free_port(),
                "FLOWER_PORT": flower,
                "CELLWORK_VISIBILITY_TIMEOUT": 5,
                "CELLWORK_INSTALLATION": self.project,
                "CELLWORK_IMAGE": f"{self.project}:dev",
                "BASE_IMAGE": "cellwork/python:base",
                "SANDBOX_IMAGE": "cellwork/python:base",
                "REDIS_IMAGE": "cellwork/redis:base",
                "ENGINE_VOLUMES": self.volume,
                "EMULATOR_DIR": folder / "pods",
                "EMULATOR_MARK": self.mark,
                "K3S_IMAGE": f"{self.project}:dev",
            }.items():
                file.write(f"{name}={value}\n")
        written = dict(re.findall(r"^(\w+)=(.*)$", (root / "compose/.env").read_text(), re.MULTILINE))
        self.login = f"{written['FLOWER_USER']}:{written['FLOWER_PASSWORD']}"

    def start(self) -> None:
        line = the_line(PAGE, "docker compose -f compose/compose.yaml up")
        # Whichever compose this machine has.
        typed = line.replace("docker compose -f compose/compose.yaml", "scripts/compose.sh")
        self.types(f"{typed} --scale worker=2", timeout=600)

    def compose(self, *arguments: str, timeout: float = 100) -> str:
        return self.types(shlex.join(["scripts/compose.sh", *arguments]), timeout)

    def producer(self, program: str, timeout: float = 60) -> str:
        """What a Python program prints that imports the example application on the host."""
        return self.on_the_host(f"python -c {shlex.quote(program)}", timeout).strip()

    def cellwork(self, *arguments: str) -> str:
        return self.on_the_host(shlex.join(["cellwork", *arguments]))

    def on_the_host(self, line: str, timeout: float = 60) -> str:
        """What is typed in the page's second terminal, after the lines that set it up."""
        settings = the_lines(PAGE, ". compose/.env", "cd compose/app", "redis=", "export ")
        return self.types("\n".join([*settings, line]), timeout)

    def types(self, line: str, timeout: float = 60) -> str:
        command = ["bash", "-c", line]
        ran = subprocess.run(
            command, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert ran.returncode == 0, f"{line}: {ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
        return ran.stdout

    def containers(self, service: str) -> list:
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        return self.engine.containers.list(all=True, filters={"label": labels})

    def healthy(self, service: str) -> bool:
        found = self.containers(service)
        return bool(found) and all(c.attrs["State"].get("Health", {}).get("Status") == "healthy" for c in found)

    def sandboxes(self) -> list:
        return self.engine.api.containers(all=True, filters={"label": f"cellwork.installation={self.project}"})

    def page(self, path: str, login: str | None = "") -> tuple[int, str]:
        """Status and content of one of Flower's; 0: it does not answer yet. None: without a login."""
        login = self.login if login == "" else login
        headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.flower + path, headers=headers), timeout=5
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""
        except OSError:
            return 0, ""

    def state(self) -> str:
        return self.compose("ps") + self.compose("logs", "--tail=30")


def ready(worker) -> int:
    """How often a worker's container has come up."""
    return worker.logs().count(b" ready.")


@pytest.fixture(scope="module")
def cluster(engine, tmp_path_factory):
    subprocess.run([ROOT / "scripts" / "base-images.sh", "python", "redis"], check=True, timeout=300)
    cluster = Cluster(engine, tmp_path_factory.mktemp("compose"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.compose(*KUBERNETES, "down", "--volumes", "--timeout", "45")
        left = {
            "sandboxes": cluster.sandboxes(),
            "pods": engine.containers.list(all=True, filters={"label": cluster.mark}),
            **{
                kind: getattr(engine, kind).list(filters={"label": f"com.docker.compose.project={cluster.project}"})
                for kind in ("containers", "volumes", "networks")
            },
        }
        with suppress(ImageNotFound):  # not even built
            engine.images.remove(f"{cluster.project}:dev", force=True)
    assert not any(left.values()), left


def test_tasks_of_a_producer_on_the_host_run_and_their_logs_can_be_read(cluster):
    total = "from shop.tasks import total; print(total.delay([1.5, 2]).get(timeout=50))"
    assert cluster.producer(total) == "3.5"
    pack = "from shop.tasks import pack; r = pack.delay(2, 0.1); r.get(timeout=50); print(r.id)"
    printed = cluster.cellwork("logs", "-A", "shop.app", cluster.producer(pack))
    assert printed == "packing parcel 1 of 2\npacking parcel 2 of 2\n"


def test_what_the_page_types_in_a_second_terminal_follows_a_task(cluster):
    id_ = cluster.on_the_host(the_line(PAGE, "python -c")).strip()
    printed = cluster.on_the_host(the_line(PAGE, "cellwork logs").replace(" ID", f" {id_}"))
    assert printed.splitlines()[-1] == "packing parcel 5 of 5"


def test_the_image_of_kubernetes_is_built_on_this_one(cluster, engine):
    """Its first line is the build that compose has made, from here on out of the engine's cache."""
    image = f"{cluster.project}-app:dev"
    worker, app = the_line(KINDS_PAGE, "-f compose/Dockerfile"), the_line(KINDS_PAGE, "-f k8s/overlays")
    named = worker.replace("cellwork-cluster/worker:dev", f"{cluster.project}:dev")
    cluster.types(f"{named} --build-arg BASE_IMAGE=cellwork/python:base", timeout=300)
    named = app.replace("cellwork-cluster/app:dev", image)
    try:
        cluster.types(f"{named} --build-arg CELLWORK_IMAGE={cluster.project}:dev", timeout=100)
        assert engine.containers.run(image, ["ls", "/app/shop"], remove=True, network_mode="none").split()
    finally:
        engine.images.remove(image, force=True)


def test_flower_shows_the_tasks_and_wants_a_login_for_metrics_too(cluster):
    wait_until(lambda: cluster.page("/healthcheck")[0] == 200, timeout=60, what="Flower")
    for path in ("/", "/tasks", "/metrics", "/api/tasks"):
        assert cluster.page(path, login=None)[0] == 401
        assert cluster.page(path, login="cellwork:wrong")[0] == 401
    sent = cluster.producer("from shop.tasks import total; r = total.delay([1]); r.get(timeout=50); print(r.id)")
    wait_until(lambda: sent in cluster.page("/api/tasks")[1], timeout=30, what="the task")
    assert "flower_events_total" in cluster.page("/metrics")[1]


def test_the_kubernetes_profile_is_valid_and_off_unless_asked_for(cluster):
    assert {"k3s", "kubernetes-worker"} <= set(
        cluster.compose("--profile", "kubernetes", "config", "--services").split()
    )
    assert not cluster.containers("k3s")


def test_with_the_kubernetes_profile_a_heavy_task_is_a_pod(cluster):
    cluster.compose(*KUBERNETES, "up", "--detach", "k3s", "kubernetes-worker", timeout=200)
    wait_until(lambda: cluster.healthy("kubernetes-worker"), timeout=120, what="the worker of pods")
    send = """
from shop.app import app
from shop.tasks import total
result = total.apply_async([[1.5, 2]], executor="kubernetes")
print(result.get(timeout=100), app.backend.get_task_meta(result.id)["cellwork"]["host"])
"""
    assert cluster.producer(send, timeout=150) == "3.5 emulated"
    (worker,) = cluster.containers("kubernetes-worker")
    assert not any(m["Source"].endswith(".sock") for m in worker.attrs["Mounts"])


def test_a_folder_of_the_host_is_in_the_sandbox_although_the_worker_does_not_have_it(cluster):
    (cluster.volume / "in.txt").write_text("from the host")
    program = f"""
from shop.tasks import keep
print(keep.apply_async(["in.txt", "out.txt"], volumes=["{cluster.volume}:/data"]).get(timeout=50))
"""
    assert cluster.producer(program) == "from the host"
    assert (cluster.volume / "out.txt").read_text() == "from the host"
    for worker in cluster.containers("worker"):
        assert worker.exec_run(["test", "-e", str(cluster.volume)]).exit_code == 1
    other = program.replace(str(cluster.volume), "/etc")
    with pytest.raises(AssertionError, match="PolicyViolation"):
        cluster.producer(other)


def test_only_this_machine_reaches_what_is_published(cluster):
    for service, port in (("redis", "6379/tcp"), ("flower", "5555/tcp")):
        (container,) = cluster.containers(service)
        assert [one["HostIp"] for one in container.ports[port]] == ["127.0.0.1"]


def test_a_worker_that_is_killed_is_replaced_and_its_task_runs_once(cluster):
    send = "from shop.tasks import pack; print(pack.delay(12, 1.0).id)"
    id_ = cluster.producer(send)
    wait_until(lambda: "parcel 2" in cluster.cellwork("logs", "-A", "shop.app", id_), timeout=40, what="its lines")
    (sandbox,) = [c for c in cluster.sandboxes() if f"/cellwork-{id_}-0" in (c["Names"] or ())]
    name = sandbox["Labels"]["cellwork.worker"].removeprefix("celery@")
    victim = next(c for c in cluster.containers("worker") if c.id.startswith(name))
    victim.kill()
    cluster.producer(f"from shop.app import app; app.AsyncResult({id_!r}).get(timeout=50)")
    printed = cluster.cellwork("logs", "-A", "shop.app", id_).splitlines()
    packed = [line for line in printed if line.startswith("packing")]
    # From its first line to its last, once: the sandbox that the dead worker had started went on.
    assert packed == [f"packing parcel {n} of 12" for n in range(1, 13)]
    starts = ready(victim)
    victim.start()
    # So that it removes, when it leaves, what it could not remove when it was killed.
    wait_until(lambda: ready(victim) > starts, timeout=150, what="it to be back")


def test_a_process_that_dies_is_started_again(cluster):
    victim = cluster.containers("worker")[0]
    starts = ready(victim)
    victim.exec_run(["python", "-c", "import os; os.kill(-1, 9)"])
    wait_until(lambda: (victim.reload(), victim.attrs["RestartCount"])[1] == 1, timeout=30, what="its restart")
    wait_until(lambda: ready(victim) > starts, timeout=150, what="it to be back")
    assert cluster.producer("from shop.tasks import total; print(total.delay([4]).get(timeout=50))") == "4"


def test_a_scheduler_that_stands_still_is_told_by_its_health_check(cluster):
    (scheduler,) = cluster.containers("scheduler")
    _, check = scheduler.attrs["Config"]["Healthcheck"]["Test"]

    def answers() -> bool:
        return scheduler.exec_run(["sh", "-c", check]).exit_code == 0

    def signal(name: str) -> None:
        program = f"""
import os, pathlib, signal
found = [p for p in pathlib.Path("/proc").glob("[0-9]*") if b"beat" in (p / "cmdline").read_bytes().split(b"\\0")]
os.kill(max(int(p.name) for p in found), signal.{name})
"""
        assert scheduler.exec_run(["python", "-c", program]).exit_code == 0

    wait_until(answers, timeout=60, what="its answer")
    signal("SIGSTOP")
    try:
        assert not answers()
    finally:
        signal("SIGCONT")
    wait_until(answers, timeout=60, what="its answer")


def test_all_that_has_a_health_check_is_healthy_and_none_has_more_rights_than_it_needs(cluster):
    for service in ("redis", "engine", "flower", "worker", "scheduler"):
        wait_until(lambda s=service: cluster.healthy(s), timeout=180, what=f"{service} to be healthy")
    for service in ("redis", "engine", "flower", "worker", "scheduler"):
        for container in cluster.containers(service):
            host = container.attrs["HostConfig"]
            assert (host["CapDrop"], host["ReadonlyRootfs"], host["Privileged"]) == (["ALL"], True, False)
            assert host["Memory"]
            sockets = [m["Source"] for m in container.attrs["Mounts"] if m["Source"].endswith(".sock")]
            assert bool(sockets) == (service == "engine"), "nobody else has the engine's socket"
            assert (container.attrs["Config"]["User"].partition(":")[0] in ("", "0")) == (service == "engine")
