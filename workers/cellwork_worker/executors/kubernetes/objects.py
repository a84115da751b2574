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


class Reference(Object, frozen=True):
    """What an event is about."""

    name: str = ""
    uid: str = ""
    #: Such as ``spec.containers{task}``.
    field_path: str = ""


class Event(Object, frozen=True):
    """Something that a component of the cluster tells about an object (API reference, "Event v1 core")."""

    metadata: Metadata = Metadata()
    involved_object: Reference = Reference()
    reason: str = ""
    message: str = ""


class EventList(Object, frozen=True):
    """The answer to a list."""

    metadata: ListMeta = ListMeta()


class ContainerMetrics(Object, frozen=True):
    """What a container uses: quantities ``cpu``, of processors, and ``memory``, of bytes."""

    name: str = ""
    usage: dict[str, str] = {}


class PodMetrics(Object, frozen=True):
    """A pod's, as metrics-server has measured it last (its API ``metrics.k8s.io/v1beta1``)."""

    metadata: Metadata = Metadata()
    #: The end of what was measured.
    timestamp: datetime | None = None
    containers: tuple[ContainerMetrics, ...] = ()


class PodMetricsList(Object, frozen=True):
    """The answer to a list."""

    items: tuple[PodMetrics, ...] = ()


class WatchEvent(Object, frozen=True):
    """One line of a watch; `object` is of the kind that is watched, or a Status where `type` is ERROR."""

    type: str
    object: msgspec.Raw


class Refusal(Object, frozen=True):
    """The API server's own word for "no" (API reference, "Status v1 meta")."""

    message: str = ""
    reason: str = ""
    code: int = 0
