"""The parts of Kubernetes' objects that are looked at, as the API spells them (API reference, "Pod v1 core")."""

from datetime import datetime

import msgspec


class Object(msgspec.Struct, frozen=True, rename="camel"):
    """Fields that nobody looks at are not even kept: a watch of 500 pods sends many."""


class Metadata(Object, frozen=True):
    """Of any object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: datetime | None = None
    #: Somebody deletes it; its containers have until then to end.
    deletion_timestamp: datetime | None = None


class Waiting(Object, frozen=True):
    """A container that does not run yet."""

    reason: str = ""
    message: str = ""


class Running(Object, frozen=True):
    """A container that runs."""

    started_at: datetime | None = None


class Terminated(Object, frozen=True):
    """A container that has ended."""

    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    #: What it wrote to its termination log, or what the kubelet says. Hostile.
    message: str = ""


class ContainerState(Object, frozen=True):
    """One of the three."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Object, frozen=True):
    """Of one container."""

    name: str = ""
    state: ContainerState = ContainerState()
    image_id: str = msgspec.field(default="", name="imageID")


class Condition(Object, frozen=True):
    """One of a pod's conditions."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class PodStatus(Object, frozen=True):
    """What the kubelet and the control plane say."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class PodSpec(Object, frozen=True):
    """Where it is."""

    node_name: str = ""


class Pod(Object, frozen=True):
    """One pod."""

    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class ListMeta(Object, frozen=True):
    """Where a watch goes on from a list."""

    resource_version: str = ""


class PodList(Object, frozen=True):
    """The answer to a list."""

    metadata: ListMeta = ListMeta()
    items: tuple[Pod, ...] = ()


class WatchEvent(Object, frozen=True):
    """One line of a watch; `object` is a Pod, or a Status where `type` is ERROR."""

    type: str
    object: msgspec.Raw


class Refusal(Object, frozen=True):
    """The API server's own word for "no" (API reference, "Status v1 meta")."""

    message: str = ""
    reason: str = ""
    code: int = 0
