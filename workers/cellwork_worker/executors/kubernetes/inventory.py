"""Which pods of an installation there are, of whichever worker, in all namespaces that it uses."""

import logging
import threading

from cellwork.errors import EngineUnavailable
from cellwork_worker.executors.base import Names

from .api import Api
from .connection import Refused
from .objects import Pod

logger = logging.getLogger("cellwork.worker")


class Inventory:
    """Of one executor."""

    def __init__(self, api: Api, selector: str, namespace: str | None, names: Names) -> None:
        """Args:
        api, selector: where, and which labels.
        namespace: of pods whose task names none; None: the service account's or the kubeconfig's.
        names: of namespaces, remembered for all workers.
        """
        self._api = api
        self._selector = selector
        self._namespace = namespace
        self._names = names
        self._lock = threading.Lock()
        #: Namespaces that took a pod of ours. One that refused may not even be looked at.
        self._used: set[str] = set()
        #: Where the pods are that were listed last.
        self._listed: dict[str, str] = {}

    @property
    def namespace(self) -> str:
        """Of pods whose task names none.

        Raises:
            EngineUnavailable: there is no configuration.
        """
        if self._namespace is None:
            self._namespace = self._api.namespace
        return self._namespace

    def enter(self, namespace: str) -> None:
        """There is to be a pod in it. Whoever comes after this process knows then where to look."""
        if namespace not in self._used:
            self._names.add(namespace)

    def entered(self, namespace: str) -> None:
        """It took one."""
        with self._lock:
            self._used.add(namespace)

    def pods(self) -> list[Pod]:
        """All.

        Raises:
            EngineUnavailable
        """
        with self._lock:
            used = {self.namespace, *self._used}
        found = [pod for namespace in used for pod in self._in(namespace)]
        for namespace in self._names.all() - used:
            try:
                found += self._in(namespace)
            except EngineUnavailable as error:
                # Another worker's, whose rights may be others; or it never took a pod.
                logger.info("namespace %s, of which another worker may know more: %s", namespace, error)
        self._listed = {pod.metadata.name: pod.metadata.namespace for pod in found}
        for namespace in set(self._listed.values()):
            self._names.add(namespace)
        return found

    def where(self, name: str) -> str:
        """The namespace of a pod that was listed last, or else that of pods whose task names none.

        Raises:
            EngineUnavailable: there is no configuration.
        """
        return self._listed.get(name) or self.namespace

    def find(self, name: str) -> str:
        """See `where`; all are listed for it if need be.

        Raises:
            EngineUnavailable
        """
        if name not in self._listed:
            self.pods()
        return self.where(name)

    def earlier(self, name: str, here: str) -> str:
        """The namespace where an earlier delivery's pod of that name is, whatever worker has made it.

        Args:
            name: the pod's.
            here: where it would be made now, and where it is unless it is found elsewhere.

        Raises:
            EngineUnavailable
        """
        if name not in self._listed and self._names.all() - {here}:
            self.pods()
        return self._listed.get(name, here)

    def _in(self, namespace: str) -> tuple[Pod, ...]:
        try:
            return self._api.pods(namespace, self._selector).items
        except Refused as refused:
            raise EngineUnavailable(f"pods of namespace {namespace} cannot be listed: {refused}") from None
