"""What one worker process has: its settings, its policy, its executors, its supervisor."""

import logging
import secrets
from typing import Any

from cellwork import settings as settings_
from cellwork.errors import CellworkError
from cellwork_worker import logs, policy
from cellwork_worker.executors.registry import Executors
from cellwork_worker.sandboxes import Sandboxes
from cellwork_worker.supervisor import Supervisor

logger = logging.getLogger("cellwork.worker")


class Worker:
    """Put together when the pool starts."""

    def __init__(self, app: Any, name: str) -> None:
        """`name`: Celery's node name, such as ``celery@host``.

        Raises:
            InvalidSetting: the settings are wrong.
        """
        self.settings = settings_.load(app)
        self.executors = Executors(self.settings, name)
        rules = policy.load(self.settings.policy)
        self.logs = logs.Logs(logs.client(app), self.settings)
        self.sandboxes = Sandboxes()
        self.supervisor = Supervisor(
            self.settings, rules, self.executors, name, self._secret(app), self.logs, self.sandboxes
        )

    def announce(self) -> None:
        """Say in the log whether sandboxes can be made, and what they isolate."""
        health = self.executors(self.settings.executor).check()
        logger.log(logging.INFO if health.ok else logging.ERROR, "executor %s: %s", health.executor, health.detail)
        if self.settings.executor == "process":
            logger.warning(
                "tasks run as plain processes of this machine, which isolates nothing; for containers install "
                "Docker (Debian: apt-get install docker.io) and start the worker without CELLWORK_EXECUTOR=process"
            )

    def close(self) -> None:
        """End what is left of this worker's sandboxes, and wait until it is gone."""
        for executor in self.executors.made():
            try:
                executor.sweep(frozenset())
            except CellworkError as error:
                logger.error("sandboxes of this worker may be left: %s", error)
        self.sandboxes.close()
        self.logs.close()

    def _secret(self, app: Any) -> bytes:
        """What nonces are made from; the same on all workers, so that one can read on what another began."""
        fresh = secrets.token_hex(32)
        client = getattr(app.backend, "client", None)
        if client is None or not hasattr(client, "set"):
            return fresh.encode()
        key = f"cellwork:{self.settings.installation}:secret"
        client.set(key, fresh, nx=True)
        return bytes(client.get(key))
