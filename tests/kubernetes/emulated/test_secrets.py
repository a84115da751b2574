"""Secrets of the cluster's own, which no worker sees."""

import base64

import pytest

from cellwork.errors import InvalidSpec

TIMEOUT = 60


@pytest.fixture
def database(cluster):
    data = {"db.password": base64.b64encode(b"hunter2").decode()}
    cluster.server.store.create("secrets", "jobs", {"metadata": {"name": "database"}, "data": data})
    yield
    cluster.server.store.remove("secrets", "jobs", "database")


def test_a_task_that_names_a_secret_of_the_cluster_becomes_a_pod_that_has_it(shop, pod_worker, database):
    result = shop.secret.asks_the_cluster.delay()
    assert result.get(timeout=TIMEOUT) == "2retnuh"
    assert f"{result.id}-0 goes to kubernetes: secret_env" in pod_worker.text
    assert "hunter2" not in pod_worker.text


def test_a_secret_that_is_not_there_is_told(shop, pod_worker):
    error = shop.secret.asks_the_cluster.delay().get(timeout=TIMEOUT, propagate=False)
    assert isinstance(error, InvalidSpec)
    assert "CreateContainerConfigError" in str(error)
