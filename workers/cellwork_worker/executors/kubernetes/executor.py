"""The executor: makes a pod, follows it, has it deleted."""

import threading
import time
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime
from signal import SIGKILL

import msgspec

from cellwork.errors import CellworkError, EngineUnavailable, SandboxLost
from cellwork_worker.executors.base import (
    STARTED,
    STDOUT,
    Abandoned,
    Emit,
    Exit,
    Health,
    InMemory,
    Names,
    Sandbox,
    Usage,
)
from cellwork_worker.launch import Launch

from . import manifest, refusals, rights, shell, status
from .api import Api
from .connection import Refused
from .creation import Creator
from .following import Following
from .inventory import Inventory
from .objects import Pod
from .removal import GRACE, Remover
from .view import Figures, View
from .watch import Watched


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
    launch: Launch
    namespace: str
    view: View
    watched: Watched
    following: Following
    #: By `time.monotonic`; None: not yet.
    started: float | None = None
    #: Somebody here asked it to end.
    stopped: bool = False
    #: At once: whatever status its processes then end with.
    killed: bool = False
    abandoned: bool = False
    #: The API server did not answer: its pod may be there, and the task may have begun.
    unsure: bool = False


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
        names: Names | None = None,
    ) -> None:
        """Connects on first use.

        Args:
            installation, worker, broker: on every pod; `sweep` looks at its own only.
            namespace: of pods whose task names none; None: the service account's or the kubeconfig's.
            context: of the kubeconfig.
            limits: see `Limits`.
            names: of the namespaces that the installation's pods are in, remembered; None: by this process alone.
        """
        self._api = Api(context=context, rate=limits.rate, connections=limits.followers + 16)
        self._selector = manifest.selector(installation)
        self._mine = (worker, broker)
        self._inventory = Inventory(self._api, self._selector, namespace, InMemory() if names is None else names)
        self._limits = limits
        self._followers = threading.BoundedSemaphore(limits.followers)
        self._creator = Creator(self._api)
        self._remover = Remover(self._api)
        self._lock = threading.Lock()
        self._views: dict[str, View] = {}
        self._running: dict[str, _Run] = {}
        #: Namespaces and uids of pods that are not removed before `discard`.
        self._kept: dict[str, tuple[str, str]] = {}
        #: Left to other workers.
        self._abandoned: set[str] = set()
        #: Names of pods whose task failed.
        self._failed: set[str] = set()
        self._place: str | None = None

    def run(self, launch: Launch, emit: Emit) -> Exit:
        """See the port."""
        asked = time.monotonic()
        run = self._running[launch.id] = self._begin(launch)
        figures = Figures()
        try:
            self._inventory.enter(run.namespace)
            made = self._creator.create(launch, run.namespace, run.watched)
            self._inventory.entered(run.namespace)
            self._wait_started(launch, run)
            if not run.stopped and self._creator.replace(made, launch, run.namespace, run.watched):
                run.following.close()
                run.following = Following(self._api, run.namespace, run.watched)
                self._wait_started(launch, run)
            run.started = time.monotonic()
            emit(STARTED, b"")
            ended = self._collect(launch, run, emit)
        except Refused as refused:
            error = refusals.error(f"for task {launch.task} in pod {launch.id}", refused.status, refused.said)
            run.unsure = isinstance(error, EngineUnavailable)
            raise error from None
        except EngineUnavailable:
            run.unsure = True
            raise
        finally:
            run.following.close()
            figures = run.view.remove(run.watched, time.monotonic() - (run.started or asked))
            del self._running[launch.id]
            self._leave(launch, run)
        if run.abandoned:
            raise Abandoned(f"task {launch.task}: pod {launch.id} was left to another worker")
        pod = run.watched.pod
        return msgspec.structs.replace(
            ended,
            adopted=made.adopted,
            start_seconds=run.started - asked,
            pull_seconds=figures.pull_seconds,
            used=ended.used or figures.used,
            image_id=status.task_container(pod).image_id,
            node=pod.spec.node_name,
        )

    def stop(self, launch_id: str, signal: int) -> None:
        """See the port. A pod knows no signals: it is deleted, with its grace or, for SIGKILL, with a second's."""
        if (run := self._running.get(launch_id)) is None:
            return
        run.stopped, run.killed = True, signal == SIGKILL
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
        namespace, uid = self._kept.pop(launch_id, ("", ""))
        failed = launch_id in self._failed
        self._failed.discard(launch_id)
        try:
            where = namespace or self._inventory.where(launch_id)
            self._remover.later(where, launch_id, uid, self._limits.keep_failed_for if failed else 0)
        except EngineUnavailable:
            return  # there is no configuration, and so there never was a pod

    def tail(self, launch_id: str, size: int) -> bytes | None:
        """See the port."""
        namespace = self._kept.get(launch_id, ("", ""))[0] or self._inventory.find(launch_id)
        try:
            response = self._api.log(namespace, launch_id, status.CONTAINER, follow=False, tail=max(1, size // 16))
        except Refused:
            return None
        try:
            return bytes(response.read())[-size:]
        finally:
            response.close()

    def sandboxes(self) -> list[Sandbox]:
        """See the port."""
        return [_sandbox(pod) for pod in self._inventory.pods() if pod.metadata.deletion_timestamp is None]

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
            self._remover.later(self._inventory.where(name), name)
        self._remover.wait()
        return ended

    def check(self) -> Health:
        """See the port."""
        try:
            version = self._api.version()
            missing = rights.missing(self._api, self.namespace)
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
        """Of pods whose task names none. Raises EngineUnavailable: there is no configuration."""
        return self._inventory.namespace

    def usage(self, launch_id: str) -> Usage | None:
        """See `Metered`: as the cluster's metrics-server has sampled it last, which is never waited for."""
        if (run := self._running.get(launch_id)) is None:
            return None
        return run.view.usage(launch_id, run.launch.spec.memory)

    def _begin(self, launch: Launch) -> _Run:
        self._abandoned.discard(launch.id)
        namespace = launch.spec.namespace or self.namespace
        with self._lock:
            if namespace not in self._views:
                self._views[namespace] = View(self._api, namespace, self._selector)
            view = self._views[namespace]
        watched = view.add(launch.id)
        return _Run(launch, namespace, view, watched, Following(self._api, namespace, watched))

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
        if launch.payload is None and (terminated := status.task_container(pod).state.terminated) is not None:
            ended = msgspec.structs.replace(ended, used=shell.figures(terminated.message))
            if ended.code == 0:
                self._failed.discard(launch.id)
        if pod.metadata.deletion_timestamp is not None and (run.killed or not run.stopped) and not ended.killed:
            return msgspec.structs.replace(ended, killed=True, detail="the pod was deleted")
        return ended

    def _leave(self, launch: Launch, run: _Run) -> None:
        if run.abandoned:
            return
        uid = run.watched.pod.metadata.uid
        if launch.keep and (run.started is not None or run.unsure):
            # Of an unsure one the next try is the adopter.
            self._kept[launch.id] = run.namespace, uid
        elif run.watched.exists:
            self._remover.later(run.namespace, launch.id, uid)


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
