"""Launch → the pod, and the Secret that brings it its payload. Pure.

What comes out passes the Pod Security Standard "restricted". Field names are those of the API reference, "Pod v1 core".
"""

import base64
import gzip
import hashlib
import math
import re
from typing import Any

from cellwork.errors import InvalidSpec, PayloadTooLarge
from cellwork.spec import ContainerSpec
from cellwork_worker.executors import shell
from cellwork_worker.launch import Launch

from . import placement
from .status import CONTAINER
from .template import under

#: Where the Secret is mounted.
_PAYLOAD = "/run/cellwork"

#: A Secret takes that many bytes (API reference, "Secret v1 core"); ours has one key.
SECRET_MAX_BYTES = 1 << 20

#: A pod has no standard input that anybody could write to: this unpacks the payload there, and becomes the program.
_PRELUDE = f"""\
import os, sys, zlib
memory = os.memfd_create("payload")
unzip = zlib.decompressobj(31)
with open("{_PAYLOAD}/payload", "rb") as packed:
    while True:
        data = packed.read(1 << 20)
        if not data:
            break
        data = unzip.decompress(data)
        while data:
            data = data[os.write(memory, data):]
os.lseek(memory, 0, 0)
os.dup2(memory, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""

#: Seconds that the node may still add to a task's limits before the kubelet ends the pod by itself.
_DEADLINE_SLACK = 60

#: Before these Kubernetes takes a dollar for its own: `$(NAME)` is a variable's value, `$$` is `$` (API reference, "Pod
#: v1 core", `args`). In a container a shell's `$$` is the shell's.
_REFERENCE = re.compile(r"\$(?=[$(])")

_PULL = {"always": "Always", "missing": "IfNotPresent", "never": "Never"}
_USER = re.compile(r"([0-9]+)(?::([0-9]+))?")
_LABEL = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


def pod(launch: Launch, *, borrow: bool = True, images: shell.Program | None = None) -> dict[str, Any]:
    """The pod's manifest.

    Args:
        launch: what it is of.
        borrow: the image may have a shell, which can measure a command.
        images: what the image runs where nobody says anything else; None: it is not known.

    Raises:
        InvalidSpec: it asks for what a pod cannot have.
    """
    spec = launch.spec
    volumes, mounts = _volumes(launch)
    ours: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": launch.id, "labels": _labels(launch), "annotations": _annotations(launch)},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": _security(launch),
            "containers": [_container(launch, mounts, _command(launch, borrow, images))],
            "volumes": volumes,
            "tolerations": placement.tolerations(spec),
        },
    }
    if launch.time_limit is not None:
        # The kubelet ends it then, should no worker be there to do so.
        seconds = math.ceil(launch.time_limit + (spec.start_timeout or 0) + _DEADLINE_SLACK)
        ours["spec"]["activeDeadlineSeconds"] = seconds
    ours["spec"] |= placement.fields(spec)
    return under(spec.pod_template or {}, ours)


def packed(launch: Launch) -> bytes:
    """The payload as the Secret brings it.

    Raises:
        PayloadTooLarge
    """
    data = gzip.compress(launch.payload or b"", compresslevel=6, mtime=0)
    if len(data) > SECRET_MAX_BYTES:
        raise PayloadTooLarge(
            f"task {launch.task}: its arguments and code are {len(data)} bytes when packed, and a pod gets them in a "
            f"Secret, which takes {SECRET_MAX_BYTES}; put large data where the task can fetch it, and the code in the "
            f'image (code="image")'
        )
    return data


def secret(launch: Launch, data: bytes, owner: str) -> dict[str, Any]:
    """The Secret's manifest.

    Args:
        launch: whose payload it is.
        data: see `packed`.
        owner: uid of the pod, with which the cluster removes it.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": launch.id,
            "labels": _labels(launch),
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": launch.id, "uid": owner}],
        },
        "immutable": True,
        "data": {"payload": base64.b64encode(data).decode()},
    }


def selector(installation: str) -> str:
    """What an installation's pods have in common, as a label selector."""
    return f"app.kubernetes.io/managed-by=cellwork,cellwork.installation={label(installation)}"


def label(text: str) -> str:
    """`text` where it can be a label's value; else what it may keep of it, and a hash that tells it from others."""
    if _LABEL.fullmatch(text):
        return text
    kept = re.sub(r"[^A-Za-z0-9._-]", "-", text)[:40].strip("._-")
    return f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:16]}".lstrip("-")


def _labels(launch: Launch) -> dict[str, str]:
    ours = {name: label(launch.labels[name]) for name in launch.labels if name.startswith("cellwork.")}
    queue = {"kueue.x-k8s.io/queue-name": launch.spec.kueue_queue} if launch.spec.kueue_queue else {}
    return {
        **{name: label(value) for name, value in (launch.spec.labels or {}).items()},
        **queue,
        **ours,
        "app.kubernetes.io/managed-by": "cellwork",
        # What NetworkPolicies select by (k8s/): without one that is enforced, every pod has the cluster's network.
        "cellwork.network": label(launch.spec.network or "none"),
    }


def _annotations(launch: Launch) -> dict[str, str]:
    """The same in full: a label's value may be 63 characters of a few kinds only."""
    return {
        **(launch.spec.annotations or {}),
        **{name: value for name, value in launch.labels.items() if name.startswith("cellwork.")},
    }


def _container(launch: Launch, mounts: list[dict[str, Any]], command: dict[str, Any]) -> dict[str, Any]:
    spec = launch.spec
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": spec.image,
        "imagePullPolicy": _PULL[spec.pull or "missing"],
        "env": _env(launch),
        "resources": _resources(spec),
        "volumeMounts": mounts,
        # Its last words, where the log is not to be had; see docs/protocol.md.
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": bool(spec.read_only),
            "capabilities": {"drop": ["ALL"]},
        },
    }
    container |= command
    if spec.workdir is not None:
        container["workingDir"] = spec.workdir
    return container


def _command(launch: Launch, borrow: bool, images: shell.Program | None) -> dict[str, Any]:
    spec = launch.spec
    if launch.payload is not None:
        return {"command": _literal(spec.python or "python3", "-I", "-S", "-c", _PRELUDE, *launch.argv)}
    words = shell.measured(launch, images, borrow=borrow)
    if words is not None and (images is not None or spec.entrypoint is not None):
        return {"command": _literal(*words), "image": (images and images.image) or spec.image}
    words = words or [*(spec.entrypoint or ()), *launch.argv]
    return {"args" if spec.entrypoint is None else "command": _literal(*words)} if words else {}


def _literal(*texts: str) -> list[str]:
    """So that the container has them as they are here."""
    return [_REFERENCE.sub("$$", text) for text in texts]


def _env(launch: Launch) -> list[dict[str, Any]]:
    values = zip(launch.env, _literal(*launch.env.values()), strict=True)
    found: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in values]
    for variable, source in (launch.spec.secret_env or {}).items():
        name, _, key = source.partition("/")
        found.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})
    return found


def _resources(spec: ContainerSpec) -> dict[str, Any]:
    """Requests and limits alike: a task gets what it says, and no more."""
    amounts: dict[str, str] = {}
    if spec.cpus is not None:
        amounts["cpu"] = f"{math.ceil(spec.cpus * 1000)}m"
    if spec.memory is not None:
        amounts["memory"] = str(spec.memory)
    if spec.gpus:
        amounts["nvidia.com/gpu"] = str(spec.gpus)
    return {"requests": amounts, "limits": amounts}


def _security(launch: Launch) -> dict[str, Any]:
    spec = launch.spec
    context: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if spec.seccomp is not None:
        context["seccompProfile"] = {"type": "Localhost", "localhostProfile": spec.seccomp}
    if spec.apparmor is not None:
        context["appArmorProfile"] = {"type": "Localhost", "localhostProfile": spec.apparmor}
    if spec.user is not None:
        if (user := _USER.fullmatch(spec.user)) is None:
            raise InvalidSpec(
                f"task {launch.task}: user={spec.user!r} is a name, and a pod takes numbers, for nobody looks into its "
                f'image; write user="1000" or user="1000:1000"'
            )
        context["runAsUser"] = int(user[1])
        if user[2] is not None:
            context["runAsGroup"] = context["fsGroup"] = int(user[2])
    return context


def _volumes(launch: Launch) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    spec = launch.spec
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    if spec.devices:
        raise InvalidSpec(
            f"task {launch.task}: devices={list(spec.devices)} are of a host, which a pod cannot have; run it in a "
            f'container (executor="docker"), or ask for what a device plugin gives: gpus, or pod_template'
        )

    def add(source: dict[str, Any], path: str, *, read_only: bool = False) -> None:
        name = f"v{len(volumes)}"
        volumes.append({"name": name, **source})
        mounts.append({"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})})

    if launch.payload is not None:
        add({"secret": {"secretName": launch.id, "defaultMode": 0o444}}, _PAYLOAD, read_only=True)
    for path, size in (spec.tmpfs or {}).items():
        add({"emptyDir": {"medium": "Memory", "sizeLimit": str(size)}}, path)
    if spec.shm_size:
        add({"emptyDir": {"medium": "Memory", "sizeLimit": str(spec.shm_size)}}, "/dev/shm")  # noqa: S108 - in the pod
    for volume in spec.volumes or ():
        source, path, mode = (*volume.split(":", 2), "", "")[:3]
        if mode not in ("", "ro", "rw"):
            raise InvalidSpec(f"task {launch.task}: volumes={volume!r}: a pod knows the modes ro and rw")
        add(_source(launch, volume, source), path, read_only=mode == "ro")
    return volumes, mounts


def _source(launch: Launch, volume: str, source: str) -> dict[str, Any]:
    kind, _, name = source.rpartition("/")
    if kind == "configmap":
        return {"configMap": {"name": name}}
    if source == "emptydir":
        return {"emptyDir": {}}
    if kind == "pvc" or "/" not in source:
        return {"persistentVolumeClaim": {"claimName": name}}
    raise InvalidSpec(
        f"task {launch.task}: volumes={volume!r} is a folder of the host, which a pod cannot have; use the name of a "
        f"PersistentVolumeClaim, configmap/NAME or emptydir"
    )
