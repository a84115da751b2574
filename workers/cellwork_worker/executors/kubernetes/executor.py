"""The executor: makes a pod, follows it, has it deleted."""

import threading
import time
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime
from signal import SIGKILL

import msgspec

from cellwork.errors import CellworkError, EngineUnavailable, SandboxLost
from cellwork_worker.executors.base import STARTED, STDOUT, Abandoned, Emit, Exit, Health, Sandbox
from cellwork_worker.launch import Launch

from . import manifest, refusals, status, template
from .api import Api, Refused
from .following import Following
from .objects import Pod
from .removal import GRACE, Remover
from .watch import Watch, Watched

_EXISTS = 409

#: A pod of the name that is being deleted is waited for; seconds, and how often one that comes and goes is tried.
_DELETION_PATIENCE, _TRIES = 60.0, 3

#: Verbs that the worker needs, by resource and subresource; k8s/ grants these and no others.
NEEDED = {
    ("pods", ""): ("create", "get", "list", "watch", "delete"),
    ("pods", "log"): ("get",),
    ("secrets", ""): ("create",),
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the executor may take of the API server."""

    #: Requests a second.
    rate: float = 50.0
    #: Logs that are followed at once; the outcome of a task beyond that is read when its pod has ended.
    followers: int = 512
    #: Seconds that a pod whose task failed stays, to be looked at.
    keep_failed_for: float = 0.0


@dataclass(eq=False)
class _Run:
    namespace: str
    watched: Watched
    following: Following
    started: bool = False
    #: Somebody here asked it to end.
    stopped: bool = False
    abandoned: bool = False


_LIMITS = Limits()


class KubernetesExecutor:
    """One fresh pod a task."""

    def __init__(
        self,
        *,
        installation: str,
        worker: str,
        broker: str = "",
        namespace: str | None = None,
        context: str | None = None,
        limits: Limits = _LIMITS,
    ) -> None:
        """Connects on first use.

        Args:
            installation, worker, broker: on every pod; `sweep` looks at its own only.
            namespace: of pods whose task names none; None: the service account's or the kubeconfig's.
            context: of the kubeconfig.
            limits: see `Limits`.
        """
        self._api = Api(context=context, rate=limits.rate, connections=limits.followers + 16)
        self._selector = manifest.selector(installation)
        self._mine = (worker, broker)
        self._namespace = namespace
        self._limits = limits
        self._followers = threading.BoundedSemaphore(limits.followers)
        self._remover = Remover(self._api)
        self._lock = threading.Lock()
        self._watches: dict[str, Watch] = {}
        #: Namespaces that took a pod of ours. One that refused may not even be looked at.
        self._used: set[str] = set()
        self._running: dict[str, _Run] = {}
        #: Namespaces of pods that are not removed before `discard`, and of those listed last.
        self._kept: dict[str, str] = {}
        self._listed: dict[str, str] = {}
        #: Left to other workers.
        self._abandoned: set[str] = set()
        #: Names of pods whose task failed.
        self._failed: set[str] = set()
        self._place: str | None = None

    def run(self, launch: Launch, emit: Emit) -> Exit:
        """See the port."""
        asked = time.monotonic()
        namespace = launch.spec.namespace or self.namespace
        self._abandoned.discard(launch.id)
        watch = self._watch(namespace)
        watched = watch.add(launch.id)
        run = self._running[launch.id] = _Run(namespace, watched, Following(self._api, namespace, watched))
        try:
            adopted = self._create(launch, run)
            self._wait_started(launch, run)
            run.started = True
            start_seconds = time.monotonic() - asked
            emit(STARTED, b"")
            ended = self._collect(launch, run, emit)
        except Refused as refused:
            raise refusals.error(self._doing(launch), refused.status, refused.said) from None
        finally:
            run.following.close()
            watch.remove(watched)
            del self._running[launch.id]
            self._leave(launch, run)
        if run.abandoned:
            raise Abandoned(f"task {launch.task}: pod {launch.id} was left to another worker")
        pod = watched.pod
        return msgspec.structs.replace(
            ended,
            adopted=adopted,
            start_seconds=start_seconds,
            image_id=status.task_container(pod).image_id,
            node=pod.spec.node_name,
        )

    def stop(self, launch_id: str, signal: int) -> None:
        """See the port. A pod knows no signals: it is deleted, with its grace or, for SIGKILL, with a second's."""
        if (run := self._running.get(launch_id)) is None:
            return
        run.stopped = True
        try:
            self._api.delete_pod(run.namespace, launch_id, grace=GRACE if signal == SIGKILL else None)
        except Refused as refused:
            raise refusals.error(f"to delete pod {launch_id}", refused.status, refused.said) from None

    def abandon(self, launch_id: str) -> None:
        """See the port."""
        if (run := self._running.get(launch_id)) is not None:
            run.abandoned = True
            self._abandoned.add(launch_id)
            run.watched.release()
            run.following.interrupt()

    def discard(self, launch_id: str) -> None:
        """See the port."""
        namespace = self._kept.pop(launch_id, None) or self._listed.pop(launch_id, None)
        failed = launch_id in self._failed
        self._failed.discard(launch_id)
        try:
            self._remover.later(namespace or self.namespace, launch_id, self._limits.keep_failed_for if failed else 0)
        except EngineUnavailable:
            return  # there is no configuration, and so there never was a pod

    def tail(self, launch_id: str, size: int) -> bytes | None:
        """See the port."""
        try:
            response = self._api.log(self.namespace, launch_id, status.CONTAINER, follow=False, tail=max(1, size // 16))
        except Refused:
            return None
        try:
            return bytes(response.read())[-size:]
        finally:
            response.close()

    def sandboxes(self) -> list[Sandbox]:
        """See the port."""
        return [_sandbox(pod) for pod in self._pods() if pod.metadata.deletion_timestamp is None]

    def place(self) -> str:
        """See the port: the cluster's own id."""
        if self._place is None:
            try:
                self._place = f"kubernetes-{self._api.cluster()}"
            except CellworkError:
                return "kubernetes-unknown"
        return self._place

    def sweep(self, live: Set[str]) -> list[str]:
        """See the port."""
        found = self.sandboxes()
        self._abandoned &= {pod.id for pod in found}
        mine = [pod.id for pod in found if (pod.worker, pod.broker) == self._mine]
        ended = [name for name in mine if name not in live and name not in self._abandoned]
        for name in ended:
            self._remover.later(self._listed.get(name) or self.namespace, name)
        self._remover.wait()
        return ended

    def check(self) -> Health:
        """See the port."""
        try:
            version = self._api.version()
            missing = [
                f"{verb} {resource}{'/' if sub else ''}{sub}"
                for (resource, sub), verbs in NEEDED.items()
                for verb in verbs
                if not self._api.may(self.namespace, verb, resource, sub)
            ]
        except (EngineUnavailable, Refused) as error:
            return Health(executor="kubernetes", ok=False, detail=str(error))
        facts = {"address": self._api.address, "namespace": self.namespace, "version": version}
        if missing:
            detail = f"Kubernetes {version}, but the worker's role lacks: {', '.join(missing)} (see k8s/base/rbac.yaml)"
            return Health(executor="kubernetes", ok=False, detail=detail, facts=facts)
        return Health(executor="kubernetes", ok=True, detail=f"Kubernetes {version}", facts=facts)

    def facts(self) -> dict[str, object]:
        """See the port."""
        return {"pods": len(self._running), "api calls": dict(self._api.calls)}

    @property
    def namespace(self) -> str:
        """Of pods whose task names none.

        Raises:
            EngineUnavailable: there is no configuration.
        """
        if self._namespace is None:
            self._namespace = self._api.namespace
        return self._namespace

    def _watch(self, namespace: str) -> Watch:
        with self._lock:
            if namespace not in self._watches:
                self._watches[namespace] = Watch(self._api, namespace, self._selector)
            return self._watches[namespace]

    def _create(self, launch: Launch, run: _Run) -> bool:
        """Have a pod with the task in it. True: an earlier delivery had made it."""
        wanted = manifest.pod(launch)
        template.check(launch.task, wanted)
        data = manifest.packed(launch) if launch.payload is not None else None
        if data is None:
            launch.confirm()
        pod, adopted = self._made(launch, run, wanted)
        self._used.add(run.namespace)
        if data is not None and not status.started(pod):
            # The body cannot begin before its payload is there.
            launch.confirm()
            try:
                self._api.create_secret(run.namespace, manifest.secret(launch, data, pod.metadata.uid))
            except Refused as refused:
                if refused.status != _EXISTS:
                    raise
        return adopted

    def _made(self, launch: Launch, run: _Run, wanted: dict[str, object]) -> tuple[Pod, bool]:
        for _ in range(_TRIES):
            try:
                pod = self._api.create_pod(run.namespace, wanted)
            except Refused as refused:
                if refused.status != _EXISTS:
                    raise
            else:
                run.watched.see(pod)
                return pod, False
            found = self._api.pod(run.namespace, launch.id)
            if found is not None and found.metadata.deletion_timestamp is None:
                run.watched.see(found)
                return found, True
            self._wait_deleted(launch, run)
        raise EngineUnavailable(f"task {launch.task}: there is a pod {launch.id} that can be neither used nor replaced")

    def _wait_deleted(self, launch: Launch, run: _Run) -> None:
        deadline = time.monotonic() + _DELETION_PATIENCE
        while self._api.pod(run.namespace, launch.id) is not None:
            if time.monotonic() > deadline:
                raise EngineUnavailable(
                    f"task {launch.task}: an earlier pod {launch.id} is being deleted for more than "
                    f"{_DELETION_PATIENCE:g} s; its node may be gone: kubectl delete pod {launch.id} --force"
                )
            threading.Event().wait(0.5)

    def _wait_started(self, launch: Launch, run: _Run) -> None:
        watched = run.watched
        in_time = watched.wait(
            lambda: status.started(watched.pod) or status.hindrance(launch, watched.pod) is not None,
            launch.spec.start_timeout,
        )
        if run.abandoned:
            raise Abandoned(f"task {launch.task}: pod {launch.id} was left to another worker")
        if not in_time:
            raise status.late(launch, watched.pod)
        if (error := status.hindrance(launch, watched.pod)) is not None:
            raise error
        if not status.started(watched.pod) and not run.stopped:
            raise SandboxLost(f"task {launch.task}: pod {launch.id} was deleted before it ran, not by this worker")

    def _collect(self, launch: Launch, run: _Run, emit: Emit) -> Exit:
        watched = run.watched
        followed = self._followers.acquire(blocking=False)
        try:
            if not followed:
                watched.wait(lambda: False)
            if run.following.run(lambda data: emit(STDOUT, data)):
                return Exit()
        finally:
            if followed:
                self._followers.release()
        watched.wait(lambda: False)
        if run.abandoned:
            return Exit()
        terminated = status.task_container(watched.pod).state.terminated
        if launch.payload is not None and terminated is not None and terminated.message:
            # The runner's last words: its outcome, where that is short and the log was not to be had.
            emit(STDOUT, terminated.message.encode())
        return self._exit(launch, run)

    def _exit(self, launch: Launch, run: _Run) -> Exit:
        pod = run.watched.pod
        if not status.ended(pod):
            if run.stopped:
                return Exit(code=128 + SIGKILL, killed=True)
            why = f" ({said})" if (said := status.disruption(pod)) else ""
            raise SandboxLost(f"task {launch.task}: pod {launch.id} was deleted while it ran, not by this worker{why}")
        self._failed.add(launch.id)
        ended = status.exit_of(launch, pod)
        if pod.metadata.deletion_timestamp is not None and not run.stopped and not ended.killed:
            return msgspec.structs.replace(ended, killed=True, detail="the pod was deleted")
        return ended

    def _leave(self, launch: Launch, run: _Run) -> None:
        if run.abandoned:
            return
        if launch.keep and run.started:
            self._kept[launch.id] = run.namespace
        elif run.watched.exists and not run.watched.deleted:
            self._remover.later(run.namespace, launch.id)

    def _pods(self) -> list[Pod]:
        namespaces = {self.namespace, *self._used}
        try:
            found = [pod for namespace in namespaces for pod in self._api.pods(namespace, self._selector).items]
        except Refused as refused:
            raise EngineUnavailable(f"pods cannot be listed: {refused}") from None
        self._listed = {pod.metadata.name: pod.metadata.namespace for pod in found}
        return found

    def _doing(self, launch: Launch) -> str:
        return f"for task {launch.task} in pod {launch.id}"


def _sandbox(pod: Pod) -> Sandbox:
    created = pod.metadata.creation_timestamp or datetime.now(UTC)
    return Sandbox(
        id=pod.metadata.name,
        worker=pod.metadata.annotations.get("cellwork.worker", ""),
        broker=pod.metadata.annotations.get("cellwork.broker", ""),
        boot=pod.metadata.annotations.get("cellwork.boot", ""),
        task_id=pod.metadata.annotations.get("cellwork.task-id", ""),
        created=created.timestamp(),
    )
