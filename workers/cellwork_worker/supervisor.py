"""One task, one sandbox, from start to outcome."""

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from functools import partial
from signal import SIGTERM, Signals
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from kombu.utils.json import dumps
from msgspec.structs import replace

from cellwork import outcome
from cellwork import spec as specs
from cellwork.errors import CellworkError, EngineUnavailable, ImageUnavailable, InvalidSpec, OutOfMemory, SandboxLost
from cellwork.printable import printable
from cellwork.settings import Settings
from cellwork.spec import ContainerSpec
from cellwork_worker import launch as launches
from cellwork_worker import pods, policy, verdict
from cellwork_worker.body import Body
from cellwork_worker.bootstrap import LOADER, program
from cellwork_worker.budget import Budget
from cellwork_worker.bundle import Bundle, bundle
from cellwork_worker.executors.base import STARTED, Executor, Exit
from cellwork_worker.hardening import harden
from cellwork_worker.imagebuild import Images
from cellwork_worker.job import Ended, Job
from cellwork_worker.launch import Launch
from cellwork_worker.logs import Logs
from cellwork_worker.memory import Memory
from cellwork_worker.metering import Meter, Metering, route
from cellwork_worker.reading import Reading
from cellwork_worker.redaction import Redaction
from cellwork_worker.room import Room
from cellwork_worker.sandboxes import Sandboxes
from cellwork_worker.secret_source import SecretSource, check_executor, refuse

logger = logging.getLogger("cellwork.worker")

#: Where the image carries the code.
_NO_CODE = Bundle(digest="", data=b"")

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Supervisor:
    """Drives tasks in sandboxes; one object for all slots of a worker."""

    def __init__(
        self,
        settings: Settings,
        rules: policy.Policy,
        executors: Callable[[str], Executor],
        worker: str,
        labels: Mapping[str, str],
        secret: bytes,
        logs: Logs,
        sandboxes: Sandboxes,
        images: Images,
        metering: Metering,
        room: Room,
        memory: Memory,
    ) -> None:
        """Nothing starts before `run`.

        Args:
            settings: of this worker.
            rules: what it allows.
            executors: gives the executor of a name.
            worker: Celery's node name.
            labels: that say so of its sandboxes.
            secret: what nonces are derived from; tasks never see it.
            logs: takes what tasks print.
            sandboxes: told what runs.
            images: builds those that tasks declare.
            metering: told what they used.
            room: what they fit in.
            memory: how much of it each gets.
        """
        self._settings = settings
        self._policy = rules
        self._executors = executors
        self._worker = worker
        self._labels = labels
        self._secret = secret
        self._logs = logs
        self._secrets = SecretSource(settings.secrets_dir)
        self._sandboxes = sandboxes
        self._images = images
        self._metering = metering
        self._room = room
        self._memory = memory

    def run(self, body: Body, job: Job, args: Args, kwargs: Kwargs) -> object:
        """Run the task's body in a sandbox; return what it returned.

        Raises:
            Exception: what the body raised, or an error of the taxonomy.
            Ended: the task was ended from outside.
        """
        if job.refusal is not None:
            raise job.refusal
        spec = specs.merge(body.spec, body.overrides())
        name = self._executor_name(body, spec)
        _, reason = route(job.args[2])
        if reason not in (None, "default"):
            logger.info("%s goes to %s: %s", job.sandbox, name, printable(str(reason)))
        check_executor(body.name, spec, name)
        executor = self._executors(name)
        if name == "inline":
            return self._run_inline(executor, body, job, spec, args, kwargs)
        spec = harden(body.name, spec, self._defaults(body))
        policy.check(body.name, spec, self._policy)
        job.budget, job.sizes = Budget(self._settings), pods.sizes(job)
        spec = self._memory.first(body.name, spec, executor, job)
        again = not job.first
        while True:
            try:
                ready = self._images.ensure(body.name, spec, executor, job)
                launch = self._launch(name, body, job, ready, args, kwargs)
                returned = self._once(name, executor, launch, body, job, again=again)
            except OutOfMemory as error:
                spec = self._memory.more(spec, executor, job, error)
                self._start_anew(job)
            except CellworkError as error:
                # Removed since it was seen: it is built again.
                gone = isinstance(error, ImageUnavailable) and self._images.forget(spec)
                pause = job.budget.pause(error) if error.infrastructure or gone else None
                if pause is None:
                    raise
                if isinstance(error, SandboxLost):
                    self._start_anew(job)
                self._back_off(job, error, pause)
                again = True
            else:
                self._memory.enough(body.name, job)
                return returned

    def _start_anew(self, job: Job) -> None:
        job.discard()
        job.start += 1
        job.on_restart(job)

    def _once(self, name: str, executor: Executor, launch: Launch, body: Body, job: Job, *, again: bool) -> object:
        with self._sandboxes.entered(launch, name, executor), self._room.taken(executor, launch, job, again=again):
            self._sandboxes.starting(launch.id)
            with self._metering.measured(job, launch, name) as meter:
                return self._follow(executor, launch, body, job, meter)

    def _follow(self, executor: Executor, launch: Launch, body: Body, job: Job, meter: Meter) -> object:
        def on_state(state: str, meta: object) -> None:
            job.report(lambda: body.task.update_state(task_id=job.id, state=state, meta=meta))

        def emit(stream: int, chunk: bytes) -> bool:
            if stream == STARTED:
                job.running()
                job.budget.ran()
                meter.running()
                self._sandboxes.started(launch.id)
                return False
            return reading.emit(stream, chunk)

        nonce = self._nonce(launch.id) if launch.payload is not None else None
        log = self._logs.open(job.id, launch.id, int(body.request.retries or 0), launch.spec.log_max)
        redaction = Redaction(self._secrets(body.name, launch.spec).values())
        reading = Reading(launch.id, nonce, self._settings, on_state, log, redaction)
        job.soft_signal = SIGTERM if body.is_command else None
        spec = launch.spec
        job.kill_grace = spec.stop_grace or self._settings.kill_grace

        def stop(signal: int) -> None:
            # SIGTERM is Celery's word for "please end"; the sandbox may want to be asked otherwise.
            executor.stop(launch.id, Signals[spec.stop_signal or "SIGTERM"] if signal == SIGTERM else signal)

        job.starting(stop, lambda: executor.abandon(launch.id))
        # Not a closure over the launch, which knows the job: a ring would keep its payload until a collection of all.
        job.discard = partial(executor.discard, launch.id)
        try:
            meter.exit = ended = executor.run(launch, emit)
        except CellworkError:
            if job.ended is not None:
                raise Ended from None
            raise
        finally:
            meter.over()
            meter.claimed = reading.usage
            job.stopped()
            reading.close()
        if job.ended is not None:
            raise Ended
        logger.debug("%s[%s] %s: %s", body.name, job.id, launch.id, ended)
        if body.is_command and job.soft_exceeded:
            raise SoftTimeLimitExceeded(job.soft_limit)
        return self._conclude(body, launch, reading, ended)

    def _conclude(self, body: Body, launch: Launch, reading: Reading, ended: Exit) -> object:
        if body.is_command:
            limit = self._settings.result_max_bytes
            return verdict.command_result(launch, ended, bytes(reading.stdout), reading.tail, limit)
        match reading.outcome:
            case outcome.Success(value):
                return value
            case outcome.Failure() as failure:
                if (short := verdict.short_of_memory(launch, failure, reading.usage)) is not None:
                    raise short
                raise verdict.rebuild(failure, body.owns, body.named_exceptions)
            case outcome.RetryRequest() as asked:
                error = asked.error
                cause = None if error is None else verdict.rebuild(error, body.owns, body.named_exceptions)
                raise body.retry(asked, cause)
            case None:
                raise verdict.lost(launch, ended, reading.tail)
            case refused:
                raise verdict.error(launch, refused)

    def _defaults(self, body: Body) -> ContainerSpec:
        queue = str((body.request.delivery_info or {}).get("routing_key"))
        return specs.merge(self._settings.defaults, self._settings.queue_defaults.get(queue, ContainerSpec()))

    def _executor_name(self, body: Body, spec: ContainerSpec) -> str:
        if body.name.startswith("celery."):
            return "inline"  # Celery's own glue (chord_unlock, backend_cleanup) needs the broker
        # Of plain Celery's producers nobody has routed it.
        asked = spec.executor or body.routed() or self._defaults(body).executor or "docker"
        # "docker" means a sandbox on the worker's own host; which kind of sandbox, that host decides.
        return self._settings.executor if asked == "docker" else asked

    def _launch(self, name: str, body: Body, job: Job, spec: ContainerSpec, args: Args, kwargs: Kwargs) -> Launch:
        launch_id = launches.sandbox_name(job.id, int(body.request.retries or 0), job.start)
        labels = launches.labels(self._labels, body.name, job.id, spec)
        labels |= launches.attempt_labels(launch_id, route(job.args[2])[1])
        one = Launch(
            id=launch_id,
            task=body.name,
            task_id=job.id,
            spec=spec,
            argv=(),
            env={},
            payload=None,
            labels=labels,
            security_options=policy.security_options(spec, self._policy),
            time_limit=job.hard_limit,
            keep=True,
            redelivered=not job.first,
            alias=job.alias,
            note=lambda name: job.note(job, name),
            confirm=job.beginning,
        )
        if body.is_command:
            refuse(body.name, spec, "a command's environment shows in docker inspect")
            traced = {} if job.traceparent is None else {"TRACEPARENT": job.traceparent}
            return replace(one, argv=_command(body, args, kwargs), env={**traced, **(spec.env or {})})
        env = launches.runner_env(spec)
        ahead, digest = self._prepare(body, spec)
        task = self._task(body, job, spec, args, kwargs, self._nonce(launch_id))
        launches.check_size(body.name, len(ahead), len(task), self._settings.payload_max_bytes)
        # A pod's image is seldom of the worker's Python, and its Secret is kept by the cluster: sources alone.
        ahead = program(ready=name != "kubernetes") + ahead
        return replace(
            one,
            argv=(spec.python or "python3", "-c", LOADER),
            env=env,
            payload=ahead + task,
            ahead=len(ahead),
            # A second delivery looks for the sandbox of the first, and so does this one after the engine was away.
            shape=launches.shape(spec, env, digest) if job.first and not job.alias and spec.warm is not False else "",
        )

    def _prepare(self, body: Body, spec: ContainerSpec) -> tuple[bytes, str]:
        """The part of the payload that may be sent ahead of need, and its digest."""
        code = _NO_CODE
        if spec.code == "ship":
            code = bundle(body.module, body.file or "", spec.code_root, self._settings.payload_max_bytes)
        header = dumps({"code": spec.code, "preload": spec.preload or ()})
        return launches.pack(header, code.data), f"{code.digest} {header}"

    def _task(self, body: Body, job: Job, spec: ContainerSpec, args: Args, kwargs: Kwargs, nonce: str) -> bytes:
        """The task's own part of the payload."""
        request = body.request
        header = launches.header(
            nonce=nonce,
            request={
                "id": job.id,
                "name": body.name,
                "retries": request.retries or 0,
                "max_retries": body.task.max_retries,
                "root_id": request.root_id,
                "parent_id": request.parent_id,
                "group": request.group,
                "hostname": self._worker,
            },
            target={"module": body.module, "qualname": body.qualname, "bind": body.bind},
            args=args,
            kwargs=kwargs,
            limits=(job.soft_limit, job.hard_limit),
            result_max_bytes=self._settings.result_max_bytes,
            secrets=self._secrets(body.name, spec),
            traceparent=job.traceparent,
        )
        return launches.pack(dumps(header))

    def _run_inline(
        self, executor: Executor, body: Body, job: Job, spec: ContainerSpec, args: Args, kwargs: Kwargs
    ) -> object:
        refuse(body.name, spec, "an inline task runs in the worker's own environment")
        launch = Launch(
            id=job.sandbox,
            task=body.name,
            task_id=job.id,
            spec=spec,
            argv=(),
            env={},
            payload=None,
            labels={},
            body=lambda: body.call(*args, **kwargs),
        )
        job.running()
        try:
            return executor.run(launch, lambda stream, chunk: False).value
        finally:
            job.stopped()
            if job.ended is not None:
                # Nothing can end a thread; what Celery was told of its end must not be replaced by its return.
                raise Ended

    def _nonce(self, launch_id: str) -> str:
        return hmac.new(self._secret, launch_id.encode(), hashlib.sha256).hexdigest()[:32]

    def _back_off(self, job: Job, error: CellworkError, seconds: float) -> None:
        what = "asks the engine again" if isinstance(error, EngineUnavailable) else "starts a new sandbox"
        logger.warning("%s %s in %.1f s: %s", job.sandbox, what, seconds, error)
        if job.wait_ended(seconds):
            raise Ended


def _command(body: Body, args: Args, kwargs: Kwargs) -> tuple[str, ...]:
    argv = body.call(*args, **kwargs)
    if isinstance(argv, str) or not isinstance(argv, list | tuple) or not all(isinstance(word, str) for word in argv):
        raise InvalidSpec(
            f"task {body.name}: its function must return the command as a list of strings, such as "
            f'["sh", "-c", "…"]; it returned {argv!r:.200}'
        )
    return tuple(argv)
