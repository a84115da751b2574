"""What cellwork's metrics make of events, whatever is in them. Each in a process of its own: they are global there."""

import subprocess
import sys

PROGRAM = """
from types import SimpleNamespace
import prometheus_client
from cellwork.flower.metrics import Metrics

metrics = Metrics()
task = SimpleNamespace(name="shop.parse", eta=None, received=1.0, started=2.0)


def tell(type, uuid="a", **fields):
    metrics.observe_task("w@test", {"type": type, "uuid": uuid, **fields}, task)


def value(name, **labels):
    return prometheus_client.REGISTRY.get_sample_value(name, {"worker": "w@test", **labels})


"""


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM + program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_run_is_counted_with_its_start_its_times_and_its_outcome():
    run("""
tell("task-started", queue_seconds=0.5)
assert value("cellwork_running") == 1
assert value("cellwork_queue_seconds_sum", task="shop.parse") == 0.5
tell("task-succeeded", executor="docker", outcome="success", start="warm", start_seconds=0.002, run_seconds=3.0,
     cpu_seconds=1.5, peak_memory_bytes=1 << 20, redelivered=True, pull_seconds=7.0, network_sent_bytes=5,
     disk_read_bytes=6)
assert value("cellwork_running") == 0
docker = {"executor": "docker"}
assert value("cellwork_starts_total", start="warm", **docker) == 1
assert value("cellwork_run_seconds_sum", task="shop.parse", **docker) == 3.0
assert value("cellwork_cpu_seconds_total", task="shop.parse", **docker) == 1.5
assert value("cellwork_pull_seconds_sum", **docker) == 7.0
assert value("cellwork_network_bytes_total", task="shop.parse", direction="sent", **docker) == 5
assert value("cellwork_network_bytes_total", task="shop.parse", direction="received", **docker) == 0
assert value("cellwork_disk_bytes_total", task="shop.parse", direction="read", **docker) == 6
assert value("cellwork_outcomes_total", task="shop.parse", outcome="success", **docker) == 1
assert value("cellwork_redeliveries_total", **docker) == 1
assert value("cellwork_adoptions_total", **docker) is None
tell("task-failed", executor="docker", outcome="out-of-memory", start="adopted", ooms=2)
assert value("cellwork_ooms_total", task="shop.parse", **docker) == 2
assert value("cellwork_adoptions_total", **docker) == 1
""")


def test_an_event_without_a_sandbox_is_an_outcome_all_the_same():
    run("""
tell("task-revoked")
assert value("cellwork_outcomes_total", executor="none", task="shop.parse", outcome="revoked") == 1
""")


def test_nonsense_in_an_event_is_not_counted_and_breaks_nothing():
    run("""
tell("task-started", queue_seconds="soon")
tell("task-failed", executor=["x"], outcome={}, start=7, run_seconds=float("nan"), cpu_seconds=-1, ooms=10**400)
assert value("cellwork_queue_seconds_count", task="shop.parse") == 0
assert value("cellwork_outcomes_total", executor="none", task="shop.parse", outcome="failed") == 1
assert value("cellwork_cpu_seconds_total", executor="none", task="shop.parse") == 0
""")


def test_tasks_of_a_worker_that_leaves_run_no_more_and_its_series_can_be_forgotten():
    run("""
tell("task-started", "a")
tell("task-started", "b")
assert value("cellwork_running") == 2
metrics.observe_worker("w@test", {"type": "worker-offline"})
assert value("cellwork_running") == 0
assert metrics.remove_workers({"w@test"}) == 1
assert value("cellwork_running") is None
""")


def test_the_grafana_dashboard_asks_for_metrics_and_labels_that_there_are():
    run(r"""
import json, re
from pathlib import Path

tell("task-started", queue_seconds=0.5)
tell("task-failed", executor="docker", outcome="out-of-memory", start="adopted", start_seconds=1.0, run_seconds=1.0,
     cpu_seconds=1.0, peak_memory_bytes=1, ooms=1, redelivered=True)
known = {}
for metric in prometheus_client.REGISTRY.collect():
    for sample in metric.samples:
        known.setdefault(sample.name, set()).update(sample.labels)
dashboard = json.loads(Path("compose/grafana/cellwork.json").read_text())
asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
assert len(asked) > 10
for expression in asked:
    (name,) = re.findall(r"cellwork_\w+", expression)
    labels = set(re.findall(r"(\w+)[!=]", re.findall(r"\{(.*?)\}", expression)[0]))
    labels |= {label.strip() for group in re.findall(r"by \((.*?)\)", expression) for label in group.split(",")}
    assert labels <= known[name], (expression, known.get(name))
""")
