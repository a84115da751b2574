"""What the chaos run torments: a Redis with persistence, an engine, an API server, workers that are started again."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import redis
from emulator.apiserver import ApiServer
from emulator.cluster import write_kubeconfig
from emulator.node import Node
from ownengine import OwnEngine
from ownredis import OwnRedis

from .way import EngineWay, RedisWay

PROJECT = Path(__file__).parent.parent / "project"


IMAGE = "cellwork/python:base"

#: Of the worker whose tasks become pods.
PODS = "chaos-pods"


class Cluster:
    """Two Docker workers and one of pods, of one installation, with their Redis."""

    def __init__(self, folder: Path, installation: str, visibility: float) -> None:
        self.folder = folder
        self.installation = installation
        self.visibility = visibility
        self.ledger = folder / "ledger"
        self.ledger.mkdir(parents=True)
        self.ledger.chmod(0o777)
        self.names = ("chaos-a", "chaos-b", PODS)
        #: Those that are stopped and will wake.
        self.frozen: set[str] = set()
        #: Those that a fault has ended.
        self.killed: set[str] = set()
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.started = 0
        self._logs: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._redis = OwnRedis(folder / "redis")
        self._redis.start()
        self.url = self._redis.url
        #: Each worker's own.
        self.redis = {name: RedisWay(self._redis.port) for name in self.names}
        self.own = OwnEngine()
        self.own.start()
        self.own.copy(IMAGE)
        self.engine = EngineWay(folder, self.own.socket)
        self.node = Node(f"cellwork.emulated-node={uuid.uuid4().hex[:12]}")
        self.node.claims["ledger"] = self.ledger
        self.api = ApiServer(self.node.logs)
        self.node.serve(self.api.store)
        self._kubeconfig = write_kubeconfig(folder, self.api.url)

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis.from_url(f"{self.url}/{db}")

    def environment(self, worker: str) -> dict[str, str]:
        return {
            **os.environ,
            "CELERY_BROKER_URL": f"{self.redis[worker].url}/0",
            "CELERY_RESULT_BACKEND": f"{self.redis[worker].url}/1",
            "SHOP_INSTALLATION": self.installation,
            "SHOP_VOLUMES": f"{self.ledger} ledger",
            "DOCKER_HOST": self.engine.url,
            "KUBECONFIG": str(self._kubeconfig),
            "CELLWORK_VISIBILITY_TIMEOUT": str(self.visibility),
            "CELLWORK_MAX_DELIVERIES": "50",
            "CELLWORK_INFRA_RETRIES": "20",
        }

    def start_worker(self, name: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "shop.app", "worker", "-n", f"{name}@chaos", "-c", "4"]
        queue, executor = (PODS, "kubernetes") if name == PODS else ("chaos", "docker")
        with self._lock:
            self.started += 1
            self._logs[name] = self.folder / f"{name}-{self.started}.log"
            with self._logs[name].open("wb") as log:
                self.workers[name] = subprocess.Popen(
                    [*command, "-Q", queue, "--loglevel=INFO"],
                    cwd=PROJECT,
                    env={**self.environment(name), "CELLWORK_EXECUTOR": executor},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.killed.discard(name)

    def start(self) -> None:
        """All workers."""
        for name in self.names:
            self.start_worker(name)

    def kill(self, name: str) -> None:
        """A worker, without a word, until it is started again."""
        self.killed.add(name)
        self.workers[name].kill()

    def ended(self) -> list[str]:
        """Workers that are gone though nobody killed them, each with the last line of its log."""
        return [
            f"{name}: {self._logs[name].read_text(errors='replace').strip().rpartition(chr(10))[2]}"
            for name, process in self.workers.items()
            if name not in self.killed and process.poll() is not None
        ]

    def served_beside(self, worker: str) -> bool:
        """A worker of the same kind is there, and awake: this one, or another."""
        alike = [name for name in self.names if (name == PODS) == (worker == PODS)]
        return any(name not in self.frozen and self.workers[name].poll() is None for name in alike)

    def ready(self) -> bool:
        """All workers have begun to consume: one that is stopped earlier leaves what its predecessor left."""
        return all(b" ready." in log.read_bytes() for log in self._logs.values())

    def restart_redis(self, pause: threading.Event, seconds: float) -> None:
        self._redis.stop()
        pause.wait(seconds)
        self._redis.start()

    def close(self) -> None:
        """A warm shutdown; whatever does not come to its end is killed."""
        for process in self.workers.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for process in self.workers.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for way in self.redis.values():
            way.close()
        self._redis.stop()
        self.engine.close()

    def pods(self) -> list[str]:
        """Pods and Secrets that are there."""
        with self.api.store.changed:
            return [f"{kind} {name}" for kind, _, name in self.api.store._objects]

    def end_api(self) -> None:
        """Once nothing is to be looked at any more."""
        self.api.close()
        self.node.close()
        self.own.close()
