"""What ``cellwork doctor`` says of the broker's Redis and of the libraries in use."""

import time
from importlib.metadata import version
from typing import Any

from celery import Celery
from redis import RedisError, ResponseError

from cellwork.broker import Broker

#: What the test run uses: other versions may work, and nobody has seen it.
TESTED = {"celery": "5.7", "kombu": "5.7", "redis": "8"}

#: Seconds by which a machine's clock may differ from the broker's.
_SKEW = 5.0


def redis_health(app: Celery) -> dict[str, Any]:
    """Whether Redis keeps what it is given, and whether its clock is ours. One row of the doctor's."""
    broker = Broker(app)
    try:
        client = broker.client
        facts = {str(key): value for key, value in client.info().items()}
        seconds, microseconds = client.time()
        skew = time.time() - (seconds + microseconds / 1e6)
        snapshots = _config(client, "save")
    except RedisError as error:
        return {"what": "redis", "ok": False, "detail": f"the broker does not say how it is set: {error}", "facts": {}}
    finally:
        broker.close()
    evicts = str(facts.get("maxmemory_policy", "noeviction"))
    appends = bool(facts.get("aof_enabled"))
    said = {
        "version": str(facts.get("valkey_version") or facts.get("redis_version")),
        "persistence": "append-only file" if appends else f"snapshots ({snapshots})" if snapshots else "none",
        "maxmemory-policy": evicts,
        "clock": f"{skew:+.1f} s from ours",
    }
    problems = []
    if evicts != "noeviction" and facts.get("maxmemory"):
        problems.append(f"it evicts keys when it is full ({evicts}), and loses tasks; set maxmemory-policy noeviction")
    if abs(skew) > _SKEW:
        problems.append(f"its clock and ours differ by {abs(skew):.0f} s; run NTP on both machines")
    detail = "; ".join(problems) or f"{said['version']}, persistence: {said['persistence']}"
    if not problems and said["persistence"] == "none":
        detail += ": what is queued is lost when it restarts; set appendonly yes"
    return {"what": "redis", "ok": not problems, "detail": detail, "facts": said}


def versions_health() -> dict[str, Any]:
    """The libraries against those that were tested. One row of the doctor's."""
    found = {name: version(name) for name in TESTED}
    other = [
        f"{name} {found[name]} (tested: {tested})"
        for name, tested in TESTED.items()
        if found[name] != tested and not found[name].startswith(f"{tested}.")
    ]
    detail = f"not tested: {', '.join(other)}; it may work" if other else "as tested"
    return {"what": "versions", "ok": True, "detail": detail, "facts": found}


def _config(client: Any, name: str) -> str:
    try:
        return str(client.config_get(name).get(name, ""))
    except ResponseError:
        return "not told"  # hosted ones refuse the question
