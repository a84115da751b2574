"""On which nodes a pod may run, and what is around it there. Pure; the fields are those of a pod's `spec`."""

import math
from typing import Any

from cellwork.spec import ContainerSpec

#: Seconds that a pod stays on a node that does not answer. Kubernetes' own 300 are long for others to wait.
_NODE_PATIENCE = 30


def tolerations(spec: ContainerSpec) -> list[dict[str, Any]]:
    """Of a node that is lost, and what the task says."""
    ours = [
        {
            "key": f"node.kubernetes.io/{trouble}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": _NODE_PATIENCE,
        }
        for trouble in ("not-ready", "unreachable")
    ]
    return [*ours, *(spec.tolerations or ())]


def fields(spec: ContainerSpec) -> dict[str, Any]:
    """What the task says of it."""
    pulls = spec.image_pull_secrets
    hosts = [{"ip": address, "hostnames": [name]} for name, address in (spec.extra_hosts or {}).items()]
    grace = spec.stop_grace
    said = {
        "serviceAccountName": spec.service_account,
        "nodeSelector": {**_platform(spec.platform), **(spec.node_selector or {})} or None,
        "affinity": spec.affinity,
        "priorityClassName": spec.priority_class,
        "schedulerName": spec.scheduler,
        "runtimeClassName": spec.runtime,
        "imagePullSecrets": [{"name": name} for name in pulls] if pulls else None,
        "hostname": spec.hostname,
        "hostAliases": hosts or None,
        "dnsPolicy": "None" if spec.dns else None,
        "dnsConfig": {"nameservers": list(spec.dns)} if spec.dns else None,
        "terminationGracePeriodSeconds": math.ceil(grace) if grace is not None else None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _platform(platform: str | None) -> dict[str, str]:
    """As the labels that every node has (kubernetes.io, "Well-Known Labels"); they know no variants."""
    if platform is None:
        return {}
    system, _, rest = platform.partition("/")
    architecture = rest.partition("/")[0]
    return {"kubernetes.io/os": system, **({"kubernetes.io/arch": architecture} if architecture else {})}
