"""A task that turns out too heavy for containers is sent on, to become a pod.

Its message is published again, under the same id and for the same attempt, to the queue of pods; then this delivery is
acknowledged, without an outcome. A worker that dies in between leaves two messages of one attempt: its token
(fencing.py) lets one of them run at a time, and the other one is acknowledged when there is an outcome.
"""

import copy
import logging
from collections.abc import Mapping
from signal import SIGKILL
from typing import Any

from kombu.exceptions import OperationalError
from redis import RedisError

from cellwork import routing
from cellwork.broker import Broker
from cellwork.quantity import format_bytes
from cellwork.routing import KUBERNETES_QUEUE
from cellwork.settings import Settings
from cellwork.spec import ContainerSpec, bound_to_a_host
from cellwork_worker import heartbeat
from cellwork_worker.executors.base import Executor, Hosted
from cellwork_worker.job import FENCED, MOVED, Ended, Job
from cellwork_worker.lease import Leases

logger = logging.getLogger("cellwork.worker")


class Pods:
    """The way there, from one worker."""

    def __init__(self, app: Any, broker: Broker, leases: Leases, settings: Settings) -> None:
        self._app = app
        self._broker = broker
        self._leases = leases
        self._heavy = routing.parse_heavy(settings.heavy).get("memory")

    def take(self, job: Job, spec: ContainerSpec, executor: Executor) -> None:
        """Does nothing where it is not heavy, where it is to run here, or where no worker that lives serves pods.

        Raises:
            Ended: it is on its way.
        """
        memory = spec.memory or 0
        if self._heavy is None or memory <= self._heavy or not isinstance(executor, Hosted):
            return
        if spec.executor is not None or bound_to_a_host(spec) or not _either_way(job) or not self._served():
            return
        if job.ended is not None:
            raise Ended
        tried = f", after {', '.join(map(format_bytes, job.sizes))}" if job.sizes else ""
        reason = f"memory {format_bytes(memory)} > {format_bytes(int(self._heavy))}, as it turned out{tried}"
        if self._publish(job, memory, reason):
            logger.warning("%s becomes a pod: %s", job.sandbox, reason)
            job.end(MOVED, SIGKILL)
            raise Ended

    def _publish(self, job: Job, memory: int, reason: str) -> bool:
        message = job.request.message
        fresh = copy.deepcopy(message.serializable())
        ours = fresh["headers"].get("cellwork") or {}
        fresh["headers"].pop("redelivered", None)
        fresh["headers"]["cellwork"] = {
            **ours,
            "spec": {**(ours.get("spec") or {}), "memory": memory},
            "route": {"executor": "kubernetes", "reason": reason},
            "sizes": job.sizes,
        }
        # Before anybody can take the other message: while this worker holds the token, it would be left waiting.
        self._leases.give_back(job)
        try:
            with self._app.connection_for_write() as connection:
                channel: Any = connection.default_channel
                body = channel.decode_body(fresh["body"], fresh["properties"].get("body_encoding"))
                # Encoded there again, with a tag of its own.
                channel.basic_publish({**fresh, "body": body}, "", KUBERNETES_QUEUE)
        except (OperationalError, RedisError, OSError) as error:
            logger.warning("%s cannot become a pod, and goes on here: %s", job.sandbox, error)
            if self._leases.claim(job).answer != "mine":
                job.end(FENCED, SIGKILL)
                raise Ended from None
            return False
        return True

    def _served(self) -> bool:
        try:
            return any(KUBERNETES_QUEUE in one.queues for one in heartbeat.live(self._broker))
        except RedisError as error:
            logger.warning("nobody can say whether pods are served: %s", error)
            return False


def _either_way(job: Job) -> bool:
    """True where nobody asked for the executor that the producer's router chose."""
    header = job.args[2].get("cellwork")
    route = header.get("route") if isinstance(header, Mapping) else None
    return isinstance(route, Mapping) and route.get("either_way") is True


def sizes(job: Job) -> list[int]:
    """Bytes that this attempt was tried with, before it became a pod. Whoever can send messages can say so."""
    header = job.args[2].get("cellwork")
    said = header.get("sizes") if isinstance(header, Mapping) else None
    return [size for size in said if isinstance(size, int) and size > 0][:64] if isinstance(said, list) else []
