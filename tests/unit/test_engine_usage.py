"""The engine's figures of a container, as it tells them under either version of control groups."""

from cellwork_worker.executors.docker.looks import Look
from cellwork_worker.executors.docker.usage import totals

V1 = {
    "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
    "memory_stats": {"usage": 30, "max_usage": 50, "stats": {"total_inactive_file": 8, "inactive_file": 1}},
    "networks": {"eth0": {"rx_bytes": 5, "tx_bytes": 6}, "eth1": {"rx_bytes": 50, "tx_bytes": 60}},
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"major": 8, "minor": 0, "op": "Read", "value": 100},
            {"major": 8, "minor": 0, "op": "Write", "value": 10},
            {"major": 8, "minor": 0, "op": "Total", "value": 110},
            {"major": 9, "minor": 0, "op": "Read", "value": 1},
        ]
    },
}

V2 = {
    **V1,
    "memory_stats": {"usage": 30, "stats": {"inactive_file": 8}},
    "blkio_stats": {"io_service_bytes_recursive": [{"op": "read", "value": 101}, {"op": "write", "value": 10}]},
}

EXPECTED = {
    "cpu_seconds": 2.5,
    "peak_memory_bytes": 22,
    "network_received_bytes": 55,
    "network_sent_bytes": 66,
    "disk_read_bytes": 101,
    "disk_written_bytes": 10,
}


def test_both_versions_of_control_groups_are_read():
    assert totals(V1) == totals(V2) == EXPECTED


def test_a_container_that_has_ended_adds_nothing():
    ended = {"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": {}, "blkio_stats": {}}
    assert totals(ended) == {}
    assert totals({"blkio_stats": {"io_service_bytes_recursive": None}}) == {}


def test_looks_at_a_container_add_up_to_the_most_that_was_seen():
    look = Look("c", alone=False)
    look.add(V1)
    look.add({**V1, "memory_stats": {"usage": 20}, "cpu_stats": {"cpu_usage": {"total_usage": 3_000_000_000}}})
    look.add({"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": {}})  # it ends
    assert (look.found["cpu_seconds"], look.found["peak_memory_bytes"]) == (3.0, 22)


def test_what_will_not_tell_is_looked_at_at_once_and_the_rest_when_it_has_run_for_a_while():
    assert Look("c", alone=True).due
    assert not Look("c", alone=False).due
