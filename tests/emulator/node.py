"""A node: really runs each pod's container on the Docker engine, and reports on it as a kubelet does."""

import base64
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from emulator import telling
from emulator.store import Missing, Object, Store, now

from cellwork_worker.executors.docker.ending import ran_out
from cellwork_worker.executors.docker.usage import usage

NAME = "emulated"

LABELS = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}

#: What there is to give away.
CPUS, MEMORY = 64.0, 256 << 30


class Node:
    """Takes every pod that fits, in a thread each."""

    def __init__(self, mark: str) -> None:
        """`mark`: a label of this run's own on every container."""
        self._client = docker.APIClient(os.environ.get("DOCKER_HOST"), version="auto", timeout=60, max_pool_size=256)
        self._mark = mark
        self._store: Store | None = None
        self._containers: dict[str, str] = {}
        #: Of the images that pods named, by that name.
        self._image_ids: dict[str, str] = {}
        self._ending: set[str] = set()
        self._closing = threading.Event()
        self._lost = threading.Event()
        #: Folders of this host that stand for volumes, by their claims' names.
        self.claims: dict[str, Path] = {}
        #: Seconds after a container's end until the API server is told: a real kubelet takes 1 to 2.
        self.lag = 0.0
        #: Seconds that a pull takes, as the kubelet words it, by image; of others it says that they were there.
        self.pulls: dict[str, str] = {}

    def serve(self, store: Store) -> None:
        self._store = store
        threading.Thread(target=self._run, name="node", daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        for container in self._client.containers(all=True, filters={"label": self._mark}):
            with suppress(APIError):
                self._client.remove_container(container["Id"], force=True)
        self._client.close()

    def lose(self) -> None:
        """From here on it says nothing any more; its containers run on."""
        self._lost.set()

    def come_back(self) -> None:
        self._lost.clear()

    def evict(self, name: str, reason: str = "Evicted", message: str = "The node was low on resource: memory.") -> None:
        """The kubelet ends it because the node is short of something."""
        pod = next(p for p in self._pods() if p["metadata"]["name"] == name)

        def failed(one: Object) -> None:
            one["status"] |= {"phase": "Failed", "reason": reason, "message": message}

        self._update(pod, failed)
        with suppress(APIError):
            self._client.kill(self._containers[pod["metadata"]["uid"]])

    def disrupt(self, name: str, reason: str, message: str = "") -> None:
        """The cluster takes it away, with its grace: the scheduler for a more urgent one, or the taint manager."""
        pod = next(p for p in self._pods() if p["metadata"]["name"] == name)
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}

        def change(one: Object) -> None:
            one["status"].setdefault("conditions", []).append(condition)
            grace = one["spec"]["terminationGracePeriodSeconds"]
            one["metadata"] |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}

        assert self._store is not None
        self._store.update("pods", pod["metadata"]["namespace"], name, change)

    def kill(self, name: str) -> None:
        """The container is killed behind the kubelet's back."""
        uids = [p["metadata"]["uid"] for p in self._pods() if p["metadata"]["name"] == name]
        for uid in uids:
            self._client.kill(self._containers[uid])

    def logs(self, pod: Object, follow: bool, tail: int | None) -> Iterable[bytes]:
        """Raises Missing: there is no container yet."""
        if (container := self._containers.get(pod["metadata"]["uid"])) is None:
            raise Missing
        last: Any = "all" if tail is None else tail
        try:
            output = self._client.logs(container, stream=True, follow=follow, tail=last)
        except APIError:
            raise Missing from None
        return self._whole(container, output) if follow else output

    def _whole(self, container: str, followed: Iterable[bytes]) -> Iterable[bytes]:
        """With what engine 20.10 leaves out where a container ends while its log is followed."""
        taken = 0
        for piece in followed:
            taken += len(piece)
            yield piece
        with suppress(APIError):
            self._client.wait(container)
            for piece in self._client.logs(container, stream=True, follow=False):
                yield piece[taken:]
                taken = max(0, taken - len(piece))

    def _pods(self) -> list[Object]:
        assert self._store is not None
        return [what for (kind, _, _), what in self._store._objects.items() if kind == "pods"]

    def _run(self) -> None:
        store, known = self._store, set()
        assert store is not None
        while not self._closing.is_set():
            with store.changed:
                pods = self._pods()
                fresh = [p for p in pods if p["metadata"]["uid"] not in known]
                ending = [p for p in pods if "deletionTimestamp" in p["metadata"] and self._unseen(p)]
                orphans = self._containers.keys() - {p["metadata"]["uid"] for p in pods}
                if not fresh and not ending and not orphans:
                    store.changed.wait(0.5)
                    continue
            for pod in fresh:
                known.add(pod["metadata"]["uid"])
                threading.Thread(target=self._guard, args=(self._live, pod), daemon=True).start()
            for uid in orphans:
                # Taken from the API server at once: what runs is ended all the same.
                with suppress(APIError):
                    self._client.remove_container(self._containers.pop(uid), force=True, v=True)
            for pod in ending:
                threading.Thread(target=self._guard, args=(self._end, pod), daemon=True).start()

    def _guard(self, what: Callable[[Object], None], pod: Object) -> None:
        try:
            what(pod)
        except (Missing, DockerException, OSError):
            if not self._closing.is_set() and self._there(pod):
                raise

    def _unseen(self, pod: Object) -> bool:
        # Asked for anew when somebody shortens its grace.
        key = f"{pod['metadata']['uid']} {pod['metadata']['deletionGracePeriodSeconds']}"
        fresh = key not in self._ending and not self._lost.is_set()
        if fresh:
            self._ending.add(key)
        return fresh

    def _there(self, pod: Object) -> bool:
        with suppress(Missing):
            assert self._store is not None
            there = self._store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
            return bool(there["metadata"]["uid"] == pod["metadata"]["uid"])
        return False

    def _end(self, pod: Object) -> None:
        """Somebody deletes it: ask, kill, report, forget."""
        uid, grace = pod["metadata"]["uid"], pod["metadata"]["deletionGracePeriodSeconds"]
        assert self._store is not None
        if (container := self._containers.get(uid)) is not None:
            with suppress(APIError):
                self._client.stop(container, timeout=grace)
            with suppress(Missing):
                self._store.wait(lambda: self._over(pod), 5)
        self._store.remove("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        if container is not None:
            with suppress(APIError):
                self._client.remove_container(container, force=True, v=True)

    def _over(self, pod: Object) -> bool:
        assert self._store is not None
        there = self._store._objects.get(("pods", pod["metadata"]["namespace"], pod["metadata"]["name"]))
        return there is None or there["status"].get("phase") in ("Succeeded", "Failed")

    def _live(self, pod: Object) -> None:
        if (why := _misfit(pod["spec"], self.claims)) is not None:
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
            self._update(pod, lambda one: one["status"].update(conditions=[condition]))
            return

        def placed(one: Object) -> None:
            one["spec"]["nodeName"] = NAME
            one["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]

        self._update(pod, placed)
        folder = Path(tempfile.mkdtemp(prefix="emulated-pod-"))
        try:
            if self._prepare(pod, folder):
                self._contain(pod, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _prepare(self, pod: Object, folder: Path) -> bool:
        """Image and volumes are there. False: they will not be."""
        container = pod["spec"]["containers"][0]
        try:
            self._image_ids[container["image"]] = self._client.inspect_image(container["image"])["Id"]
        except ImageNotFound:
            denied = f'failed to pull image "{container["image"]}": not found'
            self._waiting(pod, "ErrImagePull", denied)
            self._waiting(pod, "ImagePullBackOff", f'Back-off pulling image "{container["image"]}": {denied}')
            return False
        security = pod["spec"].get("securityContext", {})
        if security.get("runAsNonRoot") and not security.get("runAsUser"):
            self._waiting(pod, "CreateContainerConfigError", "container has runAsNonRoot and image will run as root")
            return False
        store, namespace = self._store, pod["metadata"]["namespace"]
        assert store is not None
        telling.pulled(store, pod, self.pulls.get(container["image"]))
        self._waiting(pod, "ContainerCreating", "")
        for volume in pod["spec"].get("volumes", ()):
            if (source := volume.get("secret")) is not None:
                key = ("secrets", namespace, source["secretName"])
                store.wait(lambda key=key: key in store._objects or not self._there(pod), 3600)
                (folder / volume["name"]).mkdir()
                for name, text in store.get(*key)["data"].items():
                    (folder / volume["name"] / name).write_bytes(base64.b64decode(text))
                    (folder / volume["name"] / name).chmod(0o444)
        folder.chmod(0o755)
        last = folder / "termination-log"
        last.touch()
        last.chmod(0o666)
        return True

    def metrics(self, namespace: str) -> list[Object]:
        """What its pods use, as metrics-server tells it."""
        found = []
        for pod in self._pods():
            container = self._containers.get(pod["metadata"]["uid"])
            if container is None or pod["metadata"]["namespace"] != namespace:
                continue
            with suppress(APIError):
                if (uses := usage(self._client.stats(container, stream=False))) is not None:
                    found.append(telling.used(pod, uses.cpu_percent / 100, uses.memory_bytes))
        return found

    def _env(self, pod: Object) -> dict[str, str]:
        found: dict[str, str] = {}
        for one in pod["spec"]["containers"][0].get("env", ()):
            value = expanded(one.get("value", ""), found)
            if (reference := one.get("valueFrom", {}).get("secretKeyRef")) is not None:
                assert self._store is not None
                there = self._store.get("secrets", pod["metadata"]["namespace"], reference["name"])
                value = base64.b64decode(there["data"][reference["key"]]).decode()
            found[one["name"]] = value
        return found

    def _contain(self, pod: Object, folder: Path) -> None:
        uid = pod["metadata"]["uid"]
        try:
            env = self._env(pod)
        except Missing as error:
            self._waiting(pod, "CreateContainerConfigError", str(error))
            return
        config = _config(pod, folder, self._mark, self.claims, env)
        made = self._client.create_container_from_config(config, f"k8s-{uid}")
        self._containers[uid] = made["Id"]
        if self._closing.is_set():
            # `close` may have looked before it was there.
            self._client.remove_container(made["Id"], force=True)
            return
        try:
            self._client.start(made["Id"])
        except APIError as error:
            message = f"failed to create containerd task: {error.explanation}"
            self._terminated(pod, {"exitCode": 128, "reason": "StartError", "message": message})
            return
        if not self._there(pod):
            self._client.remove_container(made["Id"], force=True)
            return
        running = {"state": {"running": {"startedAt": now()}}}
        self._update(
            pod, lambda one: one["status"].update(phase="Running", containerStatuses=[self._status(pod, running)])
        )
        try:
            self._client.wait(made["Id"], timeout=pod["spec"].get("activeDeadlineSeconds"))
        except NotFound:
            return
        except requests.exceptions.ConnectionError:
            self._late(pod, made["Id"])
        state = self._client.inspect_container(made["Id"])["State"]
        if self.lag:
            self._closing.wait(self.lag)
        code = state["ExitCode"]
        oom = state["OOMKilled"] or (code == 137 and ran_out(self._client, made["Id"], state))
        ended = {"exitCode": code, "reason": "OOMKilled" if oom else "Error" if code else "Completed"}
        words = (folder / "termination-log").read_bytes()[:4096]
        self._terminated(pod, {**ended, "message": words.decode("utf-8", "replace")})

    def _late(self, pod: Object, container: str) -> None:
        """It has had its time."""
        why = "Pod was active on the node longer than the specified deadline"
        self._update(pod, lambda one: one["status"].update(phase="Failed", reason="DeadlineExceeded", message=why))
        self._client.stop(container, timeout=pod["spec"]["terminationGracePeriodSeconds"])

    def _terminated(self, pod: Object, state: dict[str, Any]) -> None:
        phase = "Failed" if state["exitCode"] else "Succeeded"

        def change(one: Object) -> None:
            one["status"]["containerStatuses"] = [self._status(pod, {"state": {"terminated": state}})]
            if one["status"].get("phase") != "Failed":
                one["status"]["phase"] = phase

        self._update(pod, change)

    def _waiting(self, pod: Object, reason: str, message: str) -> None:
        state = {"state": {"waiting": {"reason": reason, "message": message}}}
        self._update(pod, lambda one: one["status"].update(containerStatuses=[self._status(pod, state)]))

    def _status(self, pod: Object, state: dict[str, Any]) -> dict[str, Any]:
        container = pod["spec"]["containers"][0]
        image = container["image"]
        known = {
            "name": container["name"],
            "image": image,
            "imageID": self._image_ids.get(image, ""),
            "restartCount": 0,
        }
        return {**known, "ready": "running" in state["state"], **state}

    def _update(self, pod: Object, change: Callable[[Object], None]) -> None:
        if self._lost.is_set() or not self._there(pod):
            return
        assert self._store is not None
        with suppress(Missing):
            self._store.update("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], change)


def expanded(text: str, env: dict[str, str]) -> str:
    """With what variables hold for `$(NAME)`, if there is such a one, and `$` for `$$`."""
    return re.sub(r"\$(?:\$|\(([^)]*)\))", lambda found: "$" if found[1] is None else env.get(found[1], found[0]), text)


def _misfit(spec: Object, known: dict[str, Path]) -> str | None:
    requests = spec["containers"][0].get("resources", {}).get("requests", {})
    if float(requests.get("cpu", "0m").removesuffix("m")) / 1000 > CPUS:
        return "0/1 nodes are available: 1 Insufficient cpu."
    if int(requests.get("memory", 0)) > MEMORY:
        return "0/1 nodes are available: 1 Insufficient memory."
    if not (spec.get("nodeSelector") or {}).items() <= LABELS.items():
        return "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    claims = [v["persistentVolumeClaim"]["claimName"] for v in spec.get("volumes", ()) if "persistentVolumeClaim" in v]
    missing = [claim for claim in claims if claim not in known]
    return f'0/1 nodes are available: persistentvolumeclaim "{missing[0]}" not found.' if missing else None


def _config(pod: Object, folder: Path, mark: str, claims: dict[str, Path], env: dict[str, str]) -> dict[str, Any]:
    """What containerd is asked for, in Docker's words."""
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    limits, security = container.get("resources", {}).get("limits", {}), container.get("securityContext", {})
    binds, tmpfs = [f"{folder}/termination-log:/dev/termination-log"], {}
    for volume in spec.get("volumes", ()):
        for mount in (m for m in container["volumeMounts"] if m["name"] == volume["name"]):
            if "secret" in volume:
                binds.append(f"{folder}/{volume['name']}:{mount['mountPath']}:ro")
            elif "persistentVolumeClaim" in volume:
                binds.append(f"{claims[volume['persistentVolumeClaim']['claimName']]}:{mount['mountPath']}")
            elif "emptyDir" in volume:
                size = volume["emptyDir"].get("sizeLimit", "67108864")
                tmpfs[mount["mountPath"]] = f"rw,nosuid,nodev,size={size},mode=1777"
    user = spec.get("securityContext", {})
    network = (pod["metadata"].get("labels") or {}).get("cellwork.network", "bridge")
    config: dict[str, Any] = {
        "Image": container["image"],
        "Env": [f"{name}={value}" for name, value in env.items()],
        "User": f"{user.get('runAsUser', '')}:{user.get('runAsGroup', '')}".rstrip(":"),
        "WorkingDir": container.get("workingDir", ""),
        "Labels": {mark: "", "pod": pod["metadata"]["name"]},
        "StopSignal": "SIGTERM",
        "HostConfig": {
            "Binds": binds,
            "Tmpfs": tmpfs,
            "ReadonlyRootfs": bool(security.get("readOnlyRootFilesystem")),
            "CapDrop": security.get("capabilities", {}).get("drop", []),
            "SecurityOpt": ["no-new-privileges:true"],
            "NetworkMode": "none" if network == "none" else "bridge",
            "NanoCpus": int(float(limits.get("cpu", "0m").removesuffix("m")) * 1_000_000),
            "Memory": int(limits.get("memory", 0)),
            "MemorySwap": int(limits.get("memory", 0)),
            # The other driver replaces what is not UTF-8; containerd keeps it.
            "LogConfig": {"Type": "local", "Config": {"max-size": "1g", "max-file": "1", "compress": "false"}},
        },
    }
    command, args = ([expanded(text, env) for text in container.get(name, ())] for name in ("command", "args"))
    if command:
        config["Entrypoint"] = command
    if command or args:
        config["Cmd"] = args
    return config
