"""The engine's figures of a container → what it uses. Pure.

Field names are those of the Docker Engine API, section "ContainerStats".
"""

from typing import Any

from cellwork_worker.executors.base import Usage

_DISK = {"read": "disk_read_bytes", "write": "disk_written_bytes"}


def usage(stats: dict[str, Any]) -> Usage | None:
    """None: it does not run, so there are no figures."""
    memory, before, now = stats.get("memory_stats") or {}, stats.get("precpu_stats") or {}, stats.get("cpu_stats") or {}
    if "usage" not in memory or not before.get("system_cpu_usage"):
        return None
    system = now["system_cpu_usage"] - before["system_cpu_usage"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    processors = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or [0])
    return Usage(
        cpu_percent=used / system * processors * 100 if system > 0 else 0.0,
        memory_bytes=_without_cache(memory),
        memory_limit_bytes=memory.get("limit"),
    )


def totals(stats: dict[str, Any]) -> dict[str, float]:
    """What it has used since it began, under the names of the runner's frame `usage`; memory is that of now."""
    found: dict[str, float] = {}
    if used := ((stats.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage"):
        found["cpu_seconds"] = used / 1e9
    if "usage" in (memory := stats.get("memory_stats") or {}):
        found["peak_memory_bytes"] = _without_cache(memory)
    for interface in (stats.get("networks") or {}).values():
        for name, field in (("network_received_bytes", "rx_bytes"), ("network_sent_bytes", "tx_bytes")):
            found[name] = found.get(name, 0) + interface[field]
    for entry in (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ():
        # Capitals are cgroup v1's.
        if entry["op"].lower() in _DISK:
            name = _DISK[entry["op"].lower()]
            found[name] = found.get(name, 0) + entry["value"]
    return found


def _without_cache(memory: dict[str, Any]) -> int:
    details = memory.get("stats") or {}
    # Its first name is cgroup v1's.
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return int(max(0, memory["usage"] - cache))
