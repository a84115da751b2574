"""What a sandbox claims to have used is believed as far as it can be."""

from types import SimpleNamespace
from typing import Any

import pytest

from cellwork.spec import ContainerSpec
from cellwork_worker.launch import Launch
from cellwork_worker.metering import Meter


def measured(executor: str) -> Any:
    meter = Meter()
    meter.running()
    meter.over()
    meter.claimed = {"cpu_seconds": 1e9, "peak_memory_bytes": 1 << 50}
    spec = ContainerSpec(image="x", memory=64 << 20, memory_swap=80 << 20, cpus=2.0)
    launch = Launch(id="s", task="x", task_id="i", spec=spec, argv=(), env={}, payload=None, labels={})
    request = SimpleNamespace(delivery_info={})
    job: Any = SimpleNamespace(args=("x", "i", {}), request=request, first=True, queue_seconds=None)
    return meter.run(job, launch, executor, "w@x", "success")


def test_no_more_than_its_sandbox_may_use():
    run = measured("docker")
    assert run.peak_memory_bytes == 80 << 20
    assert run.cpu_seconds == pytest.approx(0, abs=1)


def test_a_plain_process_has_no_limits():
    assert measured("process").cpu_seconds == 1e9
