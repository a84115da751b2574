"""compose/: the cluster that people start, brought up from nothing, used from the host, broken, and taken down."""

import base64
import os
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from ports import free_port
from waiting import wait_until

#: Seconds: whichever test is first waits for the images, which takes minutes where nothing is cached.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
APP = ROOT / "compose" / "app"
LOGIN = "monitor:" + uuid.uuid4().hex


class Cluster:
    """One, under a name of its own."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.project = f"cellwork-e2e-{uuid.uuid4().hex[:8]}"
        self.flower = f"http://127.0.0.1:{(flower := free_port())}"
        password, redis = uuid.uuid4().hex, free_port()
        user, _, word = LOGIN.partition(":")
        self.env = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.project,
            "REDIS_PASSWORD": password,
            "REDIS_PORT": str(redis),
            "FLOWER_PORT": str(flower),
            "FLOWER_USER": user,
            "FLOWER_PASSWORD": word,
            "CELLWORK_VISIBILITY_TIMEOUT": "5",
            "CELLWORK_INSTALLATION": self.project,
            "CELLWORK_IMAGE": f"{self.project}:dev",
            "BASE_IMAGE": "cellwork/python:base",
            "SANDBOX_IMAGE": "cellwork/python:base",
            "REDIS_IMAGE": "cellwork/redis:base",
            # As a producer on the host has them.
            "CELERY_BROKER_URL": f"redis://:{password}@127.0.0.1:{redis}/0",
            "CELERY_RESULT_BACKEND": f"redis://:{password}@127.0.0.1:{redis}/1",
        }

    def compose(self, *arguments: str, timeout: float = 100) -> str:
        return self._run([str(ROOT / "scripts" / "compose.sh"), *arguments], ROOT, timeout)

    def producer(self, program: str) -> str:
        """What a Python program prints that imports the example application on the host."""
        return self._run([sys.executable, "-c", program], APP, 60).strip()

    def cellwork(self, *arguments: str) -> str:
        return self._run([sys.executable, "-m", "cellwork", *arguments], APP, 60)

    def _run(self, command: list[str], folder: Path, timeout: float) -> str:
        ran = subprocess.run(
            command, cwd=folder, env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert ran.returncode == 0, f"{command}: {ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
        return ran.stdout

    def containers(self, service: str) -> list:
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        return self.engine.containers.list(all=True, filters={"label": labels})

    def healthy(self, service: str) -> bool:
        found = self.containers(service)
        return bool(found) and all(c.attrs["State"].get("Health", {}).get("Status") == "healthy" for c in found)

    def sandboxes(self) -> list:
        return self.engine.api.containers(all=True, filters={"label": f"cellwork.installation={self.project}"})

    def page(self, path: str, login: str | None = LOGIN) -> tuple[int, str]:
        """Status and content of one of Flower's; 0: it does not answer yet."""
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
def cluster(engine):
    subprocess.run([ROOT / "scripts" / "base-images.sh", "python", "redis"], check=True, timeout=300)
    cluster = Cluster(engine)
    try:
        cluster.compose("build", timeout=600)
        cluster.compose("up", "--detach", "--scale", "worker=2")
        yield cluster
    finally:
        cluster.compose("down", "--volumes", "--timeout", "45")
        left = {
            "sandboxes": cluster.sandboxes(),
            **{
                kind: getattr(engine, kind).list(filters={"label": f"com.docker.compose.project={cluster.project}"})
                for kind in ("containers", "volumes", "networks")
            },
        }
        engine.images.remove(f"{cluster.project}:dev", force=True)
    assert not any(left.values()), left


def test_tasks_of_a_producer_on_the_host_run_and_their_logs_can_be_read(cluster):
    total = "from shop.tasks import total; print(total.delay([1.5, 2]).get(timeout=50))"
    assert cluster.producer(total) == "3.5"
    pack = "from shop.tasks import pack; r = pack.delay(2, 0.1); r.get(timeout=50); print(r.id)"
    printed = cluster.cellwork("logs", "-A", "shop.app", cluster.producer(pack))
    assert printed == "packing parcel 1 of 2\npacking parcel 2 of 2\n"


def test_flower_shows_the_tasks_and_wants_a_login_for_metrics_too(cluster):
    wait_until(lambda: cluster.page("/healthcheck")[0] == 200, timeout=60, what="Flower")
    for path in ("/", "/tasks", "/metrics", "/api/tasks"):
        assert cluster.page(path, login=None)[0] == 401
        assert cluster.page(path, login="monitor:wrong")[0] == 401
    sent = cluster.producer("from shop.tasks import total; r = total.delay([1]); r.get(timeout=50); print(r.id)")
    wait_until(lambda: sent in cluster.page("/api/tasks")[1], timeout=30, what="the task")
    assert "flower_events_total" in cluster.page("/metrics")[1]


def test_the_kubernetes_profile_is_valid_and_off_unless_asked_for(cluster):
    assert {"k3s", "kubernetes-worker"} <= set(
        cluster.compose("--profile", "kubernetes", "config", "--services").split()
    )
    assert not cluster.containers("k3s")


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


def test_all_that_has_a_health_check_is_healthy_and_none_has_more_rights_than_it_needs(cluster):
    for service in ("redis", "engine", "flower", "worker"):
        wait_until(lambda s=service: cluster.healthy(s), timeout=180, what=f"{service} to be healthy")
    for service in ("redis", "engine", "flower", "worker", "scheduler"):
        for container in cluster.containers(service):
            host = container.attrs["HostConfig"]
            assert (host["CapDrop"], host["ReadonlyRootfs"], host["Privileged"]) == (["ALL"], True, False)
            assert host["Memory"]
            sockets = [m["Source"] for m in container.attrs["Mounts"] if m["Source"].endswith(".sock")]
            assert bool(sockets) == (service == "engine"), "nobody else has the engine's socket"
            assert (container.attrs["Config"]["User"].partition(":")[0] in ("", "0")) == (service == "engine")
