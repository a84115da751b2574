"""The executor: makes a pod, follows it, has it deleted."""

import threading
from collections.abc import Collection, Set
from datetime import UTC, datetime
from signal import SIGKILL

import msgspec

from cellwork.errors import CellworkError, EngineUnavailable
from cellwork_worker.executors.base import (
    STARTED,
    Emit,
    Exit,
    Health,
    InMemory,
    Names,
    Sandbox,
    Usage,
)
from cellwork_worker.launch import Launch

from . import manifest, refusals, rights, status
from .api import Api
from .connection import Refused
from .creation import Creator
from .inventory import Inventory
from .objects import Pod
from .programs import Programs
from .registries import Registries
from .removal import GRACE, Remover
from .run import Run
from .view import Figures, View


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the executor may take of the API server."""

    #: Requests a second.
    rate: float = 50.0
    #: Logs that are followed at once; the outcome of a task beyond that is read when its pod has ended.
    followers: int = 512
    #: Seconds that a pod whose task failed stays, to be looked at.
    keep_failed_for: float = 0.0


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
        registries: Collection[str] = (),
    ) -> None:
        """Connects on first use.

        Args:
            installation, worker, broker: on every pod; `sweep` looks at its own only.
            namespace: of pods whose task names none; None: the service account's or the kubeconfig's.
            context: of the kubeconfig.
            limits: see `Limits`.
            names: of the namespaces that the installation's pods are in, remembered; None: by this process alone.
            registries: see `Registries`: those that may be asked what an image runs.
        """
        self._api = Api(context=context, rate=limits.rate, connections=limits.followers + 16)
        self._selector = manifest.selector(installation)
        self._mine = (worker, broker)
        self._inventory = Inventory(self._api, self._selector, namespace, InMemory() if names is None else names)
        self._limits = limits
        self._followers = threading.BoundedSemaphore(limits.followers)
        self._creator = Creator(self._api, Programs(Registries(registries)))
        self._remover = Remover(self._api)
        self._lock = threading.Lock()
        self._views: dict[str, View] = {}
        self._running: dict[str, Run] = {}
        #: Namespaces and uids of pods that are not removed before `discard`.
        self._kept: dict[str, tuple[str, str]] = {}
        #: Left to other workers.
        self._abandoned: set[str] = set()
        #: Names of pods whose task failed.
        self._failed: set[str] = set()
        self._place: str | None = None

    def run(self, launch: Launch, emit: Emit) -> Exit:
        """See the port."""
        run = self._running[launch.id] = self._begin(launch)
        figures = Figures()
        try:
            self._inventory.enter(run.namespace)
            made = self._creator.create(launch, run.namespace, run.watched)
            self._inventory.entered(run.namespace)
            run.wait_started()
            if not run.stopped and self._creator.replace(made, launch, run.namespace, run.watched):
                run.has_another_pod()
                run.wait_started()
            run.running()
            emit(STARTED, b"")
            ended = run.collect(emit, self._followers)
        except Refused as refused:
            error = refusals.error(f"for task {launch.task} in pod {launch.id}", refused.status, refused.said)
            run.unsure = isinstance(error, EngineUnavailable)
            raise error from None
        except EngineUnavailable:
            run.unsure = True
            raise
        finally:
            figures = run.close()
            del self._running[launch.id]
            self._leave(run)
        run.check_ours()
        pod = run.watched.pod
        return msgspec.structs.replace(
            ended,
            adopted=made.adopted,
            start_seconds=run.start_seconds,
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
            self._abandoned.add(launch_id)
            run.interrupt()

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

    def _begin(self, launch: Launch) -> Run:
        self._abandoned.discard(launch.id)
        namespace = launch.spec.namespace or self.namespace
        if launch.redelivered:
            namespace = self._inventory.earlier(launch.id, namespace)
        with self._lock:
            if namespace not in self._views:
                self._views[namespace] = View(self._api, namespace, self._selector)
            view = self._views[namespace]
        return Run(self._api, launch, namespace, view)

    def _leave(self, run: Run) -> None:
        launch, uid = run.launch, run.watched.pod.metadata.uid
        if run.abandoned:
            return
        if run.failed:
            self._failed.add(launch.id)
        if launch.keep and (run.start_seconds is not None or run.unsure):
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
