"""Containers that do nothing but hold a network namespace, for sandboxes to join one after another.

Making the namespace is more than half of a container's start (docs/benchmarks.md). One that is joined is used by one
sandbox at a time, and by the sandboxes of one image only: the process that holds it comes from that image, so no task
ever shares a namespace with another image's code. Files, processes, memory and cgroup are each sandbox's own.
"""

import logging
import threading
import uuid
from collections import deque
from collections.abc import Set
from http import HTTPStatus
from typing import Any

import requests
from docker.errors import APIError

from cellwork.errors import EngineUnavailable
from cellwork.spec import ContainerSpec
from cellwork_worker.hardening import DROPPED_CAPABILITIES, SECURITY_OPTIONS

from .engine import Engine, answer
from .facts import ImageFacts

logger = logging.getLogger("cellwork.worker")

#: Idle holders that are kept over all images; each is one sleeping process of less than 1 MiB.
_MAX_IDLE = 64

#: Longest that ``sleep`` of every distribution takes: 68 years.
_FOR_EVER = str(2**31 - 1)


def may_join(spec: ContainerSpec) -> bool:
    """True where joining makes no difference to the task: no network, and nothing that Docker refuses beside it."""
    said = (spec.hostname, spec.dns, spec.extra_hosts, spec.platform, spec.runtime)
    return spec.network == "none" and not spec.fresh_network and not any(said)


class Holders:
    """Made when needed, reused, removed with their worker."""

    def __init__(self, engine: Engine, labels: dict[str, str], images: ImageFacts) -> None:
        """`labels`: the worker's, by which what it leaves is found. `images`: what they say of themselves."""
        self._engine = engine
        self._images = images
        self._labels = {**labels, "cellwork.holder": "1"}
        self._lock = threading.Lock()
        self._idle: deque[tuple[str, str]] = deque()
        self._names: set[str] = set()
        self._unusable: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def acquire(self, image: str) -> str | None:
        """The name of a holder that nobody else uses; None where this image can have none."""
        with self._lock:
            for entry in self._idle:
                if entry[0] == image:
                    self._idle.remove(entry)
                    return entry[1]
            if image in self._unusable:
                return None
        return self._make(image)

    def release(self, image: str, name: str) -> None:
        """Its sandbox is gone: another one may join."""
        with self._lock:
            self._idle.append((image, name))
            surplus = self._idle.popleft()[1] if len(self._idle) > _MAX_IDLE else None
        if surplus is not None:
            self.discard(surplus)

    def discard(self, name: str) -> None:
        """It is broken, or a sandbox may still be in it: remove it."""
        with self._lock:
            self._names.discard(name)
        try:
            with self._engine.errors(f"to remove holder {name}"):
                self._engine.client.remove_container(name, force=True, v=True)
        except APIError as error:
            if error.status_code != HTTPStatus.NOT_FOUND:
                logger.warning("holder %s cannot be removed: %s", name, answer(error))
        except EngineUnavailable as error:
            # The worker's last sweep finds it, or a reaper.
            logger.warning("%s", error)

    def drop_unused(self, used: Set[str]) -> None:
        """Remove those that no sandbox is in, whatever the books say; new ones are made when needed."""
        with self._lock:
            self._idle = deque(entry for entry in self._idle if entry[1] in used)
            names = self._names - used
        for name in names:
            self.discard(name)

    def _make(self, image: str) -> str | None:
        name = f"cellwork-holder-{uuid.uuid4().hex[:16]}"
        client = self._engine.client
        with self._lock:
            self._names.add(name)
        try:
            client.create_container_from_config(self._config(image), name)
            client.start(name)
        except APIError as error:  # a RequestException, too
            self.discard(name)
            self._engine.knock()
            if (error.status_code or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR:
                logger.warning(
                    "image %s: no holder of a network namespace this time (%s); its task gets a new one",
                    image,
                    answer(error),
                )
                return None
            # A missing image is the task's own error, told when its own container is created.
            if error.status_code != HTTPStatus.NOT_FOUND or "no such image" not in answer(error).lower():
                logger.info(
                    "image %s cannot hold a network namespace (%s); its tasks get new ones", image, answer(error)
                )
                self._unusable.add(image)
            return None
        except (requests.RequestException, OSError):
            with self._lock:
                # It may be there all the same: the worker's last sweep removes what is not in the books.
                self._names.discard(name)
            raise
        return name

    def _config(self, image: str) -> dict[str, Any]:
        return {
            "Image": image,
            "Entrypoint": ["sleep"],
            "Cmd": [_FOR_EVER],
            # As process 1 it ignores what it does not handle; an engine that stops would wait ten seconds for it.
            "StopSignal": "SIGKILL",
            "User": "65534:65534",
            "Labels": self._labels,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "NetworkMode": "none",
                "ReadonlyRootfs": True,
                # Otherwise each would be a folder of the host, for as long as the holder lives.
                "Tmpfs": dict.fromkeys(self._images.of(image).volumes, "size=4096"),
                "CapDrop": list(DROPPED_CAPABILITIES),
                "SecurityOpt": list(SECURITY_OPTIONS),
                "Memory": 16 << 20,
                "MemorySwap": 16 << 20,
                "PidsLimit": 4,
                "LogConfig": {"Type": "none", "Config": {}},
            },
        }
