"""What is seen of one namespace, for all tasks that have pods there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cellwork_worker.executors.base import Usage

from .api import Api
from .pulls import Pulls
from .samples import Samples
from .watch import Watch, Watched


@dataclass(frozen=True)
class Figures:
    """Of one pod, as far as the cluster has told."""

    pull_seconds: float | None = None
    #: See `Samples.remove`.
    used: Mapping[str, float] = field(default_factory=dict)


class View:
    """Its pods, how long their images took to pull, and what they use."""

    def __init__(self, api: Api, namespace: str, selector: str) -> None:
        self._watch = Watch(api, namespace, selector)
        self._pulls = Pulls(api, namespace)
        self._samples = Samples(api, namespace, selector)

    def add(self, name: str) -> Watched:
        """Look at the pod of that name, which need not exist yet."""
        self._pulls.add(name)
        self._samples.add(name)
        return self._watch.add(name)

    def remove(self, watched: Watched, seconds: float) -> Figures:
        """No more; `seconds`: that it ran."""
        self._watch.remove(watched)
        return Figures(
            self._pulls.remove(watched.name, watched.pod.metadata.uid), self._samples.remove(watched.name, seconds)
        )

    def usage(self, name: str, limit: int | None) -> Usage | None:
        """See `Samples.last`."""
        return self._samples.last(name, limit)
