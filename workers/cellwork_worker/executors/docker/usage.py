"""The engine's figures of a container → what it uses. Pure.

Field names are those of the Docker Engine API, section "ContainerStats".
"""

from typing import Any

from cellwork_worker.executors.base import Usage


def usage(stats: dict[str, Any]) -> Usage | None:
    """None: it does not run, so there are no figures."""
    memory, before, now = stats.get("memory_stats") or {}, stats.get("precpu_stats") or {}, stats.get("cpu_stats") or {}
    if "usage" not in memory or not before.get("system_cpu_usage"):
        return None
    system = now["system_cpu_usage"] - before["system_cpu_usage"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    processors = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or [0])
    details = memory.get("stats") or {}
    # Its first name is cgroup v1's.
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return Usage(
        cpu_percent=used / system * processors * 100 if system > 0 else 0.0,
        memory_bytes=max(0, memory["usage"] - cache),
        memory_limit_bytes=memory.get("limit"),
    )
