"""What ``cellwork doctor`` says of the broker, and ``cellwork top``, as a user types them."""

import json
import os
import subprocess
import sys
import time

import pytest
from conftest import PROJECT
from redis import Redis

from cellwork.cli.broker_health import redis_health


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cellwork", words[0], "-A", "shop.app", *words[1:]]
    return subprocess.run(command, cwd=PROJECT, env=dict(os.environ), capture_output=True, text=True, timeout=60)


def rows() -> dict[str, dict]:
    return {row["what"]: row for row in json.loads(run("doctor", "--json").stdout)}


@pytest.fixture
def redis(broker):
    """The broker; how it is set is put back afterwards."""
    with Redis.from_url(broker) as client:
        before = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy")}
        yield client
        for name, value in before.items():
            client.config_set(name, value)


def test_doctor_tells_the_brokers_persistence_and_clock_and_the_tested_versions(shop, redis):
    found = rows()
    assert found["redis"]["ok"]
    assert found["redis"]["facts"]["maxmemory-policy"] == "noeviction"
    assert "persistence" in found["redis"]["detail"]
    assert abs(float(found["redis"]["facts"]["clock"].split()[0])) < 5
    assert found["versions"]["facts"]["celery"].startswith("5.7")


def test_doctor_tells_the_engine_the_result_backend_and_the_images_that_tasks_use(shop, engine):
    found = rows()
    assert {"version", "cgroup", "storage", "disk", "live-restore", "clock"} <= {"version", *found["docker"]["facts"]}
    assert "free of" in found["docker"]["facts"]["disk"]
    assert found["results"]["ok"]
    assert "visibility_timeout=60" in found["redis"]["facts"]["transport"]
    image = engine.images.get("cellwork/busybox:base")
    (digest,) = [one.partition("@")[2] for one in image.attrs["RepoDigests"][:1]] or [image.id]
    assert found["images"]["facts"]["cellwork/busybox:base"].endswith(digest)
    assert "MiB, sha256:" in found["images"]["facts"]["cellwork/python:base"]
    assert "registry" not in found, "no image names one"


def test_doctor_tells_which_tasks_the_policy_refuses(shop, tmp_path, monkeypatch):
    policy = tmp_path / "cellwork.toml"
    policy.write_text('[cellwork.policy]\nimages = ["cellwork/python:*"]\nmax_log = "1m"\n')
    monkeypatch.setenv("CELLWORK_CONFIG", str(policy))
    found = rows()
    assert "1 MiB of output" in found["policy"]["facts"]["most"]
    assert "image='cellwork/busybox:base' is not allowed" in found["tasks"]["facts"]["shop.checksum"]
    assert "shop.tasks.echo" not in found["tasks"]["facts"]


def test_doctor_refuses_a_clock_that_is_not_the_brokers(shop, redis, monkeypatch):
    real = time.time
    assert redis_health(shop.tasks.app)["ok"]
    monkeypatch.setattr(time, "time", lambda: real() - 60)
    row = redis_health(shop.tasks.app)
    assert not row["ok"]
    assert row["detail"] == "its clock and ours differ by 60 s; run NTP on both machines"


def test_doctor_refuses_a_broker_that_evicts_keys_when_it_is_full(shop, redis):
    redis.config_set("maxmemory", "500mb")
    redis.config_set("maxmemory-policy", "allkeys-lru")
    row = rows()["redis"]
    assert not row["ok"]
    assert "set maxmemory-policy noeviction" in row["detail"]


def test_top_looks_again_and_again(shop, shared_worker):
    ran = run("top", "-n", "2", "--interval", "0.2", "--json")
    assert (ran.returncode, ran.stdout) == (0, "[]\n[]\n")
    assert "SANDBOX" in run("top", "-n", "1").stdout
