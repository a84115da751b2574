"""A pod template under our manifest, and what no pod of a task may have, wherever it comes from. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cellwork.errors import PolicyViolation

#: Lists whose entries are told apart by a field, and merged one by one.
_KEYED = {"containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath"}

#: Lists of which both are kept. Of any other one ours replaces the template's.
_BOTH = frozenset({"tolerations", "imagePullSecrets", "hostAliases"})

_HOST_NAMESPACES = ("hostNetwork", "hostPID", "hostIPC")

#: All that the Pod Security Standard "restricted" lets a pod mount.
_VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)

#: All SELinux types that the standard knows for containers.
_SELINUX = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})

#: How AppArmor's profiles were named before the field `appArmorProfile`; still honoured.
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def under(template: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """`template` with everything that `ours` says."""
    merged = dict(template)
    for name, value in ours.items():
        merged[name] = _merged(name, merged[name], value) if name in merged else value
    return merged


def _merged(name: str, base: Any, over: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return under(base, over)
    if isinstance(base, list) and isinstance(over, list):
        if name in _BOTH:
            return [*base, *over]
        if name in _KEYED:
            return _joined(base, over, _KEYED[name])
    return over


def _joined(base: list[Any], over: list[Any], key: str) -> list[Any]:
    theirs = {one.get(key): one for one in base}
    ours = {one.get(key): one for one in over}
    return [
        *(one for one in base if one.get(key) not in ours),
        *(under(theirs[one.get(key)], one) if one.get(key) in theirs else one for one in over),
    ]


def check(task: str, pod: Mapping[str, Any]) -> None:
    """Refuse a pod that is not "restricted" (kubernetes.io, "Pod Security Standards").

    Args:
        task: its name, for the message.
        pod: the whole manifest.

    Raises:
        PolicyViolation: names what and where.
    """
    for problem in _problems(pod.get("metadata") or {}, pod.get("spec") or {}):
        raise PolicyViolation(f"task {task}: its pod is never allowed to have {problem} (from user= or pod_template=)")


def _problems(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    for name, profile in (metadata.get("annotations") or {}).items():
        if name.startswith(_APPARMOR) and not str(profile).startswith(("runtime/default", "localhost/")):
            yield f"the annotation {name}: {profile}"
    yield from (name for name in _HOST_NAMESPACES if spec.get(name))
    if spec.get("automountServiceAccountToken"):
        yield "the service account's token"
    for volume in spec.get("volumes") or ():
        if kinds := set(volume) - {"name"} - _VOLUMES:
            yield f"a volume of kind {', '.join(sorted(kinds))}"
        if any("serviceAccountToken" in source for source in (volume.get("projected") or {}).get("sources") or ()):
            yield f"the service account's token (volume {volume.get('name')})"
    context = spec.get("securityContext") or {}
    if context.get("sysctls"):
        yield "sysctls"
    yield from _loose(context, "its pod")
    for container in _containers(spec):
        yield from _privileges(container)
        yield from _errands(container)


def _privileges(container: Mapping[str, Any]) -> Iterator[str]:
    name = f"container {container.get('name')}"
    context = container.get("securityContext") or {}
    capabilities = context.get("capabilities") or {}
    yield from _loose(context, name)
    if context.get("privileged"):
        yield f"a privileged {name}"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"new privileges in {name} (allowPrivilegeEscalation must be false)"
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"capabilities in {name} (it must drop ALL)"
    if set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield f"added capabilities in {name}"
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield f"a port of the host in {name}"


def _errands(container: Mapping[str, Any]) -> Iterator[str]:
    """What the kubelet would ask of others for it, from the node's own network."""
    hooks = {**(container.get("lifecycle") or {}), **{k: v for k, v in container.items() if k.endswith("Probe")}}
    for name, hook in hooks.items():
        if any((hook.get(how) or {}).get("host") for how in ("httpGet", "tcpSocket")):
            yield f"a host in the {name} of container {container.get('name')}"


def _containers(spec: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [one for kind in ("initContainers", "containers", "ephemeralContainers") for one in spec.get(kind) or ()]


def _loose(context: Mapping[str, Any], where: str) -> Iterator[str]:
    if context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
        yield f"root in {where}"
    for profile in ("seccompProfile", "appArmorProfile"):
        if (context.get(profile) or {}).get("type") == "Unconfined":
            yield f"an unconfined {profile} in {where}"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        yield f"seLinuxOptions of its own in {where}"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"hostProcess in {where}"
    if context.get("procMount") not in (None, "Default"):
        yield f"procMount in {where}"
