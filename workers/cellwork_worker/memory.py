"""The memory that a task's sandbox begins with, and what happens when the kernel kills it for that."""

import logging

from redis import RedisError

from cellwork.errors import OutOfMemory
from cellwork.learned import Needs
from cellwork.quantity import format_bytes
from cellwork.spec import ContainerSpec
from cellwork_worker import escalation
from cellwork_worker.executors.base import Executor
from cellwork_worker.job import Job
from cellwork_worker.pods import Pods
from cellwork_worker.room import Room

logger = logging.getLogger("cellwork.worker")


class Memory:
    """Of one worker."""

    def __init__(self, needs: Needs, room: Room, pods: Pods) -> None:
        """Args:
        needs: what earlier runs needed.
        room: what the host has.
        pods: where what is too heavy for it goes.
        """
        self._needs = needs
        self._room = room
        self._pods = pods

    def first(self, task: str, spec: ContainerSpec, executor: Executor, job: Job) -> ContainerSpec:
        """What the first sandbox gets: as much as an earlier run turned out to need.

        Raises:
            Ended: it has become a pod.
        """
        if spec.memory_max is not None and spec.memory is not None:
            asked, spec = spec, escalation.at_least(spec, self._needed(task))
            if spec is not asked:
                logger.info("%s starts with %s, as earlier runs needed", job.sandbox, format_bytes(spec.memory or 0))
                self._pods.take(job, spec, executor)
                most = self._room.most_memory(executor)
                spec = escalation.at_most(spec, None if most is None else max(most, asked.memory or 0))
        job.sizes.append(spec.memory or 0)
        return spec

    def more(self, spec: ContainerSpec, executor: Executor, job: Job, error: OutOfMemory) -> ContainerSpec:
        """What the next sandbox gets.

        Raises:
            OutOfMemory: it has had all that there is.
            Ended: it has become a pod.
        """
        larger = escalation.larger(spec)
        if larger is None:
            raise escalation.exhausted(error, job.sizes) from None
        self._pods.take(job, larger, executor)
        most = self._room.most_memory(executor)
        if most is not None and most <= job.sizes[-1]:
            raise escalation.exhausted(error, job.sizes, "all that its host has") from None
        larger = escalation.at_most(larger, most)
        job.sizes.append(larger.memory or 0)
        logger.warning("%s starts again with %s: %s", job.sandbox, format_bytes(job.sizes[-1]), error)
        return larger

    def enough(self, task: str, job: Job) -> None:
        """It ended well with the last size: the next run of the task starts there."""
        if len(job.sizes) < 2:
            return
        try:
            self._needs.note(task, job.sizes[-1])
        except RedisError as error:
            logger.warning("%s: how much memory it needs is not remembered: %s", job.sandbox, error)

    def _needed(self, task: str) -> int | None:
        try:
            return self._needs.of(task)
        except RedisError as error:
            logger.warning("task %s starts with what it asks for: Redis does not say what it needs: %s", task, error)
            return None
