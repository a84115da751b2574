"""``python -m benchmarks.start [--calls N]``: where the time of a container's start goes, and what the floor is.

The same ``python3 -c pass`` started in several ways, in turn: A B C A B C …, so that the machine's moods meet all.
The steps are those of the engine's API; the last column is each way's median against a bare container's.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
from rich.console import Console
from rich.table import Table

from cellwork_worker.executors.docker.container import container_config

from .bare import IMAGE, launch

COMMAND = ["python3", "-c", "pass"]
STEPS = "create", "attach", "start", "run", "remove"

#: Seconds of each step, by the step's name.
Steps = dict[str, float]


def fork() -> Steps:
    """A process of this machine's own Python: no container at all."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)
    return {"run": time.perf_counter() - began}


class Runc:
    """The engine's own runtime on an unpacked image, with no engine above it."""

    def __init__(self, client: docker.APIClient, folder: Path, *, network: bool) -> None:
        """`network`: with a network namespace of its own."""
        self._bundle = folder / f"network-{network}"
        root = self._bundle / "rootfs"
        root.mkdir(parents=True)
        container = client.create_container(IMAGE)["Id"]
        with tempfile.TemporaryFile() as file:
            for piece in client.export(container):
                file.write(piece)
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                archive.extractall(root, filter="fully_trusted")
        client.remove_container(container)
        subprocess.run(["runc", "spec"], cwd=self._bundle, check=True)
        path = self._bundle / "config.json"
        config = json.loads(path.read_text())
        config["process"] |= {"terminal": False, "args": COMMAND}
        if not network:
            spaces = config["linux"]["namespaces"]
            config["linux"]["namespaces"] = [space for space in spaces if space["type"] != "network"]
        path.write_text(json.dumps(config))

    def __call__(self) -> Steps:
        began = time.perf_counter()
        name = f"cellwork-bench-{uuid.uuid4().hex}"
        subprocess.run(["runc", "run", name], cwd=self._bundle, check=True, stdin=subprocess.DEVNULL)
        return {"run": time.perf_counter() - began}


class Engine:
    """Create, attach, start, read to the end, remove."""

    def __init__(self, client: docker.APIClient, config: Callable[[str], dict[str, Any]]) -> None:
        """`config`: the body of "create a container" for the sandbox of that name."""
        self._client = client
        self._config = config

    def __call__(self) -> Steps:
        client, times = self._client, [time.perf_counter()]
        name = f"cellwork-bench-{uuid.uuid4().hex}"
        client.create_container_from_config(self._config(name), name)
        times.append(time.perf_counter())
        stream = client.attach(name, stream=True)
        times.append(time.perf_counter())
        client.start(name)
        times.append(time.perf_counter())
        for _ in stream:
            pass
        times.append(time.perf_counter())
        client.remove_container(name, force=True)
        times.append(time.perf_counter())
        return {step: after - before for step, before, after in zip(STEPS, times, times[1:], strict=False)}


def plain(_: str) -> dict[str, Any]:
    """As ``docker run --network none`` asks for it."""
    return {"Image": IMAGE, "Cmd": COMMAND, "AttachStdout": True, "HostConfig": {"NetworkMode": "none"}}


def hardened(holder: str | None = None) -> Callable[[str], dict[str, Any]]:
    """As the executor asks for it; `holder`: whose network namespace it joins."""
    return lambda _: container_config(launch(), 10 << 20, holder)


def print_table(seconds: dict[str, list[Steps]]) -> None:
    """Medians, the spread of the whole, and the ratio to the bare container's, call by call."""
    table = Table("", *STEPS, "till it ended", "p99", "/ bare", title=f"{' '.join(COMMAND)}, milliseconds")
    till = {name: [sum(v for s, v in one.items() if s != "remove") for one in all_] for name, all_ in seconds.items()}
    for name, found in seconds.items():
        steps = [statistics.median(one[step] for one in found) * 1000 if step in found[0] else None for step in STEPS]
        ended = sorted(till[name])
        ratio = statistics.median(a / b for a, b in zip(till[name], till["bare container"], strict=True))
        p99 = ended[min(len(ended) - 1, int(0.99 * len(ended)))]
        cells = ["" if step is None else f"{step:.1f}" for step in steps]
        table.add_row(name, *cells, f"{statistics.median(ended) * 1000:.1f}", f"{p99 * 1000:.1f}", f"{ratio:.2f}")
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start")
    parser.add_argument("--calls", type=int, default=40, help="of each")
    calls = parser.parse_args().calls
    client = docker.APIClient()
    holder = client.create_container(
        IMAGE, ["sleep", "86400"], host_config=client.create_host_config(network_mode="none")
    )
    client.start(holder)
    try:
        with tempfile.TemporaryDirectory() as folder:
            ways: dict[str, Callable[[], Steps]] = {"fork and exec": fork}
            if shutil.which("runc"):
                ways["runc, host's network"] = Runc(client, Path(folder), network=False)
                ways["runc, own network"] = Runc(client, Path(folder), network=True)
            ways["bare container"] = Engine(client, plain)
            ways["hardened"] = Engine(client, hardened())
            ways["hardened, held network"] = Engine(client, hardened(holder["Id"]))
            seconds: dict[str, list[Steps]] = {name: [] for name in ways}
            for number in range(calls + 1):
                for name, way in ways.items():
                    took = way()
                    if number:  # the first is not counted: caches
                        seconds[name].append(took)
    finally:
        client.remove_container(holder, force=True)
    print_table(seconds)


if __name__ == "__main__":
    main()
