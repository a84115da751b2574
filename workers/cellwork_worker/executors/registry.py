"""The executors by name, each made when the first task needs it, so that a worker needs only the SDKs that it uses."""

import threading

from cellwork.errors import EngineUnavailable, InvalidSpec
from cellwork.settings import Settings
from cellwork_worker.executors.base import Executor, Names
from cellwork_worker.executors.inline import InlineExecutor
from cellwork_worker.executors.process import ProcessExecutor


class Executors:
    """One executor of each kind for a worker."""

    def __init__(
        self, settings: Settings, worker: str, broker: str = "", boot: str = "", namespaces: Names | None = None
    ) -> None:
        """Args:
        settings, worker, broker, boot: on every sandbox, as labels: see `cellwork_worker.launch.worker_labels`.
        namespaces: with pods of the installation; None: those that this process uses.
        """
        self._settings = settings
        self._worker = worker
        self._broker = broker
        self._boot = boot
        self._namespaces = namespaces
        self._lock = threading.Lock()
        self._made: dict[str, Executor] = {}

    def __call__(self, name: str) -> Executor:
        """The executor of that name.

        Raises:
            InvalidSpec: this worker has none of that name.
            EngineUnavailable: its SDK is not installed.
        """
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]

    def made(self) -> list[Executor]:
        """Those that were needed so far."""
        with self._lock:
            return list(self._made.values())

    def _make(self, name: str) -> Executor:
        if name == "inline":
            return InlineExecutor()
        if name == "process":
            return ProcessExecutor()
        if name == "docker":
            return self._docker()
        if name == "kubernetes":
            return self._kubernetes()
        raise InvalidSpec(
            f"executor={name!r}: there is no such executor; there are docker, kubernetes, process and inline"
        )

    def _docker(self) -> Executor:
        try:
            from cellwork_worker.executors.docker import DockerExecutor, WarmLimits
        except ImportError as error:
            raise EngineUnavailable(
                f"the Docker SDK is not installed ({error}); pip install cellwork[docker]"
            ) from error
        settings = self._settings
        return DockerExecutor(
            installation=settings.installation,
            worker=self._worker,
            broker=self._broker,
            boot=self._boot,
            log_max_bytes=settings.log_max_bytes,
            warm=WarmLimits(
                min=settings.warm_min,
                max=settings.warm_max,
                idle_seconds=settings.warm_idle_seconds,
                memory=settings.warm_memory_bytes,
            ),
        )

    def _kubernetes(self) -> Executor:
        try:
            from cellwork_worker.executors.kubernetes import KubernetesExecutor, Limits
        except ImportError as error:
            raise EngineUnavailable(
                f"the Kubernetes SDK is not installed ({error}); pip install cellwork[kubernetes]"
            ) from error
        settings = self._settings
        return KubernetesExecutor(
            installation=settings.installation,
            worker=self._worker,
            broker=self._broker,
            namespace=settings.kube_namespace,
            context=settings.kube_context,
            limits=Limits(
                rate=settings.kube_qps, followers=settings.log_followers, keep_failed_for=settings.keep_failed_for
            ),
            names=self._namespaces,
            registries=settings.kube_registries,
        )
