"""What a kubelet and a metrics-server tell of a pod, beside its status."""

import uuid
from datetime import UTC, datetime

from emulator.store import Missing, Object, Store

CONTAINER = "task"


def pulled(store: Store, pod: Object, took: str | None) -> None:
    """Tell that its image is there, in an event; `took`: as the kubelet words it; None: it was there before."""
    metadata, image = pod["metadata"], f'image "{pod["spec"]["containers"][0]["image"]}"'
    there = f"Container {image} already present on machine"
    event = {
        # A real cluster forgets it after an hour, this one with its pod.
        "metadata": {
            "name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}",
            "ownerReferences": [{"uid": metadata["uid"]}],
        },
        "involvedObject": {
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "fieldPath": f"spec.containers{{{CONTAINER}}}",
        },
        "reason": "Pulled",
        "message": there if took is None else f"Successfully pulled {image} in {took}. Image size: 4261502 bytes.",
    }
    with store.changed:
        try:
            there_now = store.get("pods", metadata["namespace"], metadata["name"])
        except Missing:
            return
        if there_now["metadata"]["uid"] == metadata["uid"]:
            store.create("events", metadata["namespace"], event)


def used(pod: Object, cores: float, memory: int) -> Object:
    """One of metrics-server's items; `memory`: bytes."""
    return {
        "metadata": {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]},
        "timestamp": datetime.now(UTC).isoformat(),
        "containers": [{"name": CONTAINER, "usage": {"cpu": f"{int(cores * 1e9)}n", "memory": f"{memory // 1024}Ki"}}],
    }
