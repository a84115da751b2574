"""What one worker process has: its settings, its policy, its executors, its supervisor."""

import logging
import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from celery import signals, states
from celery.backends.base import DisabledBackend
from celery.exceptions import Retry
from redis import RedisError

from cellwork import otel
from cellwork import settings as settings_
from cellwork.broker import Broker
from cellwork.deadletter import DeadLetter, DeadLetters
from cellwork.errors import CellworkError, Poisoned
from cellwork.idempotency import Keys
from cellwork.learned import Needs
from cellwork.routing import KUBERNETES_QUEUE
from cellwork.settings import Settings
from cellwork.usagestore import UsageStore
from cellwork_worker import canvas, delivery, heartbeat, logs, outcomes, policy, resultmeta, startup, storing, tracing
from cellwork_worker.executors.base import Executor
from cellwork_worker.executors.registry import Executors
from cellwork_worker.fencing import Claim, Tokens
from cellwork_worker.heartbeat import Heartbeat
from cellwork_worker.imagebuild import Images
from cellwork_worker.job import Ended, Job
from cellwork_worker.launch import sandbox_name, worker_labels
from cellwork_worker.lease import Leases
from cellwork_worker.memory import Memory
from cellwork_worker.metering import Metering, route
from cellwork_worker.namespaces import Namespaces
from cellwork_worker.pods import Pods
from cellwork_worker.reaper import Reaper, Reaping
from cellwork_worker.room import Room
from cellwork_worker.sandboxes import Sandboxes
from cellwork_worker.supervisor import Supervisor

logger = logging.getLogger("cellwork.worker")

#: A frame of the runner among a sandbox's output (docs/protocol.md), which is not for people.
_FRAME = re.compile(rb"^[0-9a-f]{32} \{.*\n?", re.MULTILINE)


class Worker:
    """Put together when the pool starts."""

    def __init__(self, app: Any, name: str) -> None:
        """`name`: Celery's node name, such as ``celery@host``.

        Raises:
            InvalidSetting: the settings are wrong.
        """
        self.settings = _settings(app)
        self.broker = Broker(app)
        boot = uuid.uuid4().hex[:12]
        self.executors = Executors(self.settings, name, self.broker.id, boot, Namespaces(self.broker))
        rules = policy.load(self.settings.policy)
        if self.settings.executor in ("process", "inline"):
            # Anybody's command would run as the worker's own user.
            rules = msgspec.structs.replace(rules, commands="deny")
        self.logs = logs.Logs(logs.client(app), self.settings)
        self.sandboxes = Sandboxes()
        images = Images(app, rules, self.broker)
        self._metering = Metering(UsageStore(self.broker), name)
        self._app = app
        place = self.executors(self.settings.executor).place()
        self._heartbeat = Heartbeat(
            worker=name,
            boot=boot,
            place=place,
            executor=self.settings.executor,
            visibility_timeout=self.broker.visibility_timeout,
        )
        self.tokens = Tokens(self.broker, name)
        self.leases = Leases(self.broker, self.tokens, boot, self._place, self._beat)
        signals.worker_ready.connect(self.leases.watch)
        # Now rather than when its first task comes: an SDK takes a while to import.
        otel.tracer()
        storing.watch()
        resultmeta.tell()
        outcomes.store_at_once()
        pods = Pods(app, self.broker, self.leases, self.settings)
        self.room = Room(self.settings)
        self.supervisor = Supervisor(
            self.settings,
            rules,
            self.executors,
            name,
            worker_labels(self.settings.installation, name, self.broker.id, boot),
            self._secret(app),
            self.logs,
            self.sandboxes,
            images,
            self._metering,
            self.room,
            Memory(Needs(self.broker, self.settings.learned_ttl), self.room, pods),
        )
        self.dead = DeadLetters(self.broker)
        self._keys = Keys(app)
        self._reaper = Reaper(app, self.broker, self.tokens, boot)
        self._reaping = Reaping(self._reaper, self.executors.made, self.broker.visibility_timeout)
        self.leases.start()
        self._metering.start()

    def _beat(self) -> None:
        # Queues are added and left while it runs: celery control add_consumer.
        queues = tuple(self._app.amqp.queues.consume_from)
        heartbeat.beat(self.broker, msgspec.structs.replace(self._heartbeat, queues=queues))

    def _place(self, job: Job) -> str:
        """Where the job's sandbox is: tasks for pods may come to a worker that has containers, too."""
        try:
            return self.executors(self._executor(job)).place()
        except CellworkError:
            return "nowhere"  # its SDK is missing, and so the task fails as soon as it is to run

    def _executor(self, job: Job) -> str:
        asked, _ = route(job.args[2])
        asked = asked or self.settings.defaults.executor
        return "kubernetes" if asked == "kubernetes" else self.settings.executor

    def claim(self, job: Job) -> Callable[[], None] | None:
        """Take the job's token. None: run it. Else: call what this gives in the event loop's thread instead."""
        claim = self.leases.claim(job)
        if claim.answer == "held":
            logger.info("%s runs elsewhere; this delivery is left to that worker", job.sandbox)
            return partial(delivery.forget, job.request)
        if claim.answer == "done" or (len(claim.history) > 1 and self._has_outcome(job)):
            logger.info("%s has its outcome already; this delivery is acknowledged", job.sandbox)
            return partial(delivery.acknowledge, job.request)
        if claim.deliveries > self.settings.max_deliveries:
            self._bury(job, claim)
        return None

    def storing(self, job: Job) -> Any:
        """Run the job's trace until the outcome is stored; return what Celery wants to be told."""
        with tracing.processed(job):
            told = storing.until_stored(job, job.wait_ended)
        if job.request.ignore_result:
            # Nothing is stored that could tell a later delivery.
            self.leases.finish_now(job)
        job.stored = True
        self._settle_key(job, told)
        return told

    def _settle_key(self, job: Job, told: tuple[Any, Any, float]) -> None:
        """Keep the task's idempotency key for a while, or free it."""
        header = job.args[2].get("cellwork")
        key = header.get("idempotency_key") if isinstance(header, Mapping) else None
        failed, given, _ = told
        error = given.exception if failed else None
        # Celery may have wrapped it, so that it can be taken to another process.
        if not isinstance(key, str) or isinstance(getattr(error, "exc", None), Retry) or isinstance(error, Retry):
            return
        settle = self._keys.free if failed else self._keys.succeeded
        self.leases.patiently(
            lambda: settle(job.request.task.name, key, job.id), f"{job.sandbox}: cannot settle its idempotency key"
        )

    def _has_outcome(self, job: Job) -> bool:
        """True where an earlier worker stored the outcome and died before it could acknowledge the message."""
        backend = self._app.backend
        if job.request.ignore_result or isinstance(backend, DisabledBackend):
            return False
        meta: Any = backend.get_task_meta(job.id, cache=False)
        if meta["status"] not in states.READY_STATES:
            return False
        if not canvas.resume(backend, job.request._context, meta, job.wait_ended):
            raise Ended
        return True

    def _bury(self, job: Job, claim: Claim) -> None:
        request, message = job.request, job.request.message
        where = ", ".join(sorted({worker for worker, _ in claim.history}))
        job.refusal = Poisoned(
            f"task {request.name}[{job.id}]: delivered {claim.deliveries} times (max_deliveries="
            f"{self.settings.max_deliveries}) to {where}, and no worker lived to give an outcome. See what it was: "
            f"cellwork dead show {job.id}"
        )
        letter = DeadLetter(
            task=request.name,
            task_id=job.id,
            error=str(job.refusal),
            deliveries=claim.deliveries,
            history=claim.history,
            output=self._last_output(job),
            exchange=message.delivery_info.get("exchange") or "",
            routing_key=message.delivery_info.get("routing_key") or "",
            message=message.serializable(),
            token=self.tokens.key(job.sandbox),
        )
        self.leases.patiently(lambda: self.dead.add(letter), f"{job.sandbox}: cannot be put with the dead letters")

    def _last_output(self, job: Job) -> str | None:
        """What the sandbox of the last delivery printed, if it is still there; it goes with its task."""
        executor = self.executors(self._executor(job))
        sandbox = job.alias or sandbox_name(job.id, int(job.args[2].get("retries") or 0), job.start)
        job.discard = partial(executor.discard, sandbox)
        try:
            output = executor.tail(sandbox, self.settings.log_tail_bytes)
        except CellworkError as error:
            logger.warning("%s: its last output cannot be read: %s", sandbox, error)
            return None
        return None if output is None else _FRAME.sub(b"", output).decode("utf-8", "backslashreplace")

    def announce(self) -> None:
        """Say in the log whether sandboxes can be made, and what they isolate."""
        health = self.executors(self.settings.executor).check()
        self._reaping.start()
        logger.log(logging.INFO if health.ok else logging.ERROR, "executor %s: %s", health.executor, health.detail)
        if (name := self.settings.executor) in ("process", "inline"):
            where = "as plain processes of this machine" if name == "process" else "in the worker itself"
            logger.warning(
                "tasks run %s, which isolates nothing; for containers install Docker (Debian: apt-get install "
                "docker.io) and start the worker without CELLWORK_EXECUTOR=%s",
                where,
                name,
            )

    def close(self) -> None:
        """End what is left of this worker's sandboxes, and wait until it is gone."""
        signals.worker_ready.disconnect(self.leases.watch)
        self._reaping.close()
        self.leases.close()
        try:
            heartbeat.end(self.broker, self._heartbeat)
        except RedisError as error:
            logger.warning("the broker does not know yet that this worker leaves: %s", error)
        for executor in self.executors.made():
            try:
                executor.sweep(self._held(executor))
            except (CellworkError, RedisError) as error:
                logger.error("sandboxes of this worker may be left, until another one reaps them: %s", error)
        self._keys.close()
        self._metering.close()
        self.broker.close()
        self.sandboxes.close()
        self.logs.close()

    def _held(self, executor: Executor) -> set[str]:
        """Sandboxes made by a worker of this name, possibly an earlier one, that other workers have adopted."""
        ours = [o for o in self._reaper.sandboxes(executor) if o.worker == self._heartbeat.worker and o.task_id]
        return {one.id for one in ours if self._reaper.held(one).live}

    def _secret(self, app: Any) -> bytes:
        """What nonces are made from; the same on all workers, so that one can read on what another began."""
        fresh = secrets.token_hex(32)
        client = getattr(app.backend, "client", None)
        if client is None or not hasattr(client, "set"):
            return fresh.encode()
        key = f"cellwork:{self.settings.installation}:secret"

        def agree() -> bytes:
            client.set(key, fresh, nx=True)
            return bytes(client.get(key))

        return startup.connected(app, agree)


def _settings(app: Any) -> Settings:
    """Those of this process; a worker of the queue of pods alone needs no setting to say that it runs pods."""
    loaded = settings_.load(app)
    if set(app.amqp.queues.consume_from) == {KUBERNETES_QUEUE}:
        return msgspec.structs.replace(loaded, executor="kubernetes")
    return loaded
