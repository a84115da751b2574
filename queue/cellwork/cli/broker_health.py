"""What ``cellwork doctor`` says of the broker's Redis and of the libraries in use."""

import time
from importlib.metadata import version
from typing import Any

from celery import Celery
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from redis import RedisError, ResponseError

from cellwork import settings
from cellwork.broker import Broker

from .application import place

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
        "transport": ", ".join(f"{key}={value}" for key, value in sorted(_transport(app).items())),
    }
    problems = []
    if evicts != "noeviction" and facts.get("maxmemory"):
        problems.append(f"it evicts keys when it is full ({evicts}), and loses tasks; set maxmemory-policy noeviction")
    if (ours := settings.load(app).visibility_timeout) != broker.visibility_timeout:
        problems.append(
            f"broker_transport_options say visibility_timeout={broker.visibility_timeout:g}, which wins over the "
            f"setting ({ours:g}); say it once"
        )
    if abs(skew) > _SKEW:
        problems.append(f"its clock and ours differ by {abs(skew):.0f} s; run NTP on both machines")
    detail = "; ".join(problems) or f"{said['version']}, persistence: {said['persistence']}"
    if not problems and said["persistence"] == "none":
        detail += ": what is queued is lost when it restarts; set appendonly yes"
    return {"what": "redis", "ok": not problems, "detail": detail, "facts": said}


def backend_health(app: Celery) -> dict[str, Any]:
    """Whether results, and what tasks print, can be kept. One row of the doctor's."""
    url = str(app.conf.result_backend or "")
    row: dict[str, Any] = {"what": "results", "ok": False, "facts": {}}
    backend: Any = app.backend
    if isinstance(backend, DisabledBackend):
        return {**row, "detail": "there is no result backend; set result_backend=redis://…"}
    kind = type(backend).__name__
    if not isinstance(backend, RedisBackend):
        detail = f"{kind}: results only; what tasks print (cellwork logs, run) is kept where result_backend is a Redis"
        return {**row, "ok": True, "detail": detail}
    try:
        backend.client.ping()
    except (RedisError, OSError) as error:
        return {
            **row,
            "detail": f"the result backend at {place(url)} (result_backend) does not answer: {str(error).rstrip('.')}; "
            f"start it, or correct the URL",
        }
    facts = {"expires": f"results after {app.conf.result_expires}"}
    return {**row, "ok": True, "detail": f"{kind} at {place(url)}", "facts": facts}


def _transport(app: Celery) -> dict[str, Any]:
    """The options of kombu's transport that are no credentials."""
    said = app.conf.get("broker_transport_options") or {}
    return {key: value for key, value in said.items() if isinstance(value, int | float) or key == "global_keyprefix"}


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
