"""What can go wrong, one function a fault; each is called with the run, and returns what it did in a few words."""

import json
import signal
import threading
from collections.abc import Callable
from typing import Any

from redis import RedisError

NEVER = threading.Event()


def kill_worker(run: Any) -> str:
    """Without a word; started again a little later."""
    name = run.random.choice(run.cluster.names)
    with run.watched(name):
        run.cluster.kill(name)
    run.cluster.workers[name].wait()
    NEVER.wait(run.random.uniform(0, 3))
    run.cluster.start_worker(name)
    return f"killed {name}"


def freeze_worker(run: Any) -> str:
    """For twice the visibility timeout: it comes back as a zombie."""
    name = run.random.choice(run.cluster.names)
    process = run.cluster.workers[name]
    with run.watched(name):
        process.send_signal(signal.SIGSTOP)
        run.cluster.frozen.add(name)
    NEVER.wait(2 * run.cluster.visibility)
    process.send_signal(signal.SIGCONT)
    run.cluster.frozen.discard(name)
    return f"froze {name}"


def cut_off_worker(run: Any) -> str:
    """From Redis, for twice the visibility timeout: it comes back as a zombie that has run on."""
    name = run.random.choice(run.cluster.names)
    with run.watched(name):
        run.cluster.redis[name].block()
        run.cluster.frozen.add(name)
    NEVER.wait(2 * run.cluster.visibility)
    run.cluster.redis[name].unblock()
    run.cluster.frozen.discard(name)
    return f"cut {name} off from Redis"


def kill_sandbox(run: Any) -> str:
    """The one fault after which a body may begin twice."""
    running = [one for one in run.sandboxes() if one.status == "running" and one.labels.get("cellwork.task-id")]
    if not running:
        return "killed no sandbox: none runs"
    victim = run.random.choice(running)
    run.destroyed.append(victim.labels["cellwork.task-id"])
    victim.kill()
    return f"killed {victim.name}"


def restart_redis(run: Any) -> str:
    """What it had said yes to is still there."""
    with run.sending:
        run.cluster.restart_redis(NEVER, run.random.uniform(0.2, 1.5))
    return "restarted Redis"


def drop_connections(run: Any) -> str:
    with run.sending:
        run.client.client_kill_filter(_type="normal", skipme=True)
    return "dropped all connections"


def block_engine(run: Any) -> str:
    """It neither answers nor hangs up, for a while."""
    run.cluster.engine.block()
    NEVER.wait(run.random.uniform(0.5, 2 * run.cluster.visibility))
    run.cluster.engine.unblock()
    return "blocked the engine's socket"


def cut_engine(run: Any) -> str:
    """As a restart of the engine does that leaves its containers running."""
    run.cluster.engine.cut()
    return "cut all connections to the engine"


def restart_engine(run: Any) -> str:
    """Sandboxes run on where it has live-restore before and after; else it ends them, and bodies may begin twice."""
    own = run.cluster.own
    before, after = own.live_restore, run.random.random() < 2 / 3
    running = run.begun()
    own.stop()
    if not (before and after):
        # Tasks begin and end while it stops.
        run.destroyed += {*running, *run.begun()}
    NEVER.wait(run.random.uniform(0, 2))
    own.start(live_restore=after)
    return f"restarted the engine, {'with' if before and after else 'without'} live-restore"


def restart_api(run: Any) -> str:
    """Pods run on meanwhile. Now and then for longer than a request to it is repeated."""
    longest = run.random.choice((2.0, 2.0, 2.0, 12.0))
    run.cluster.api.stop()
    NEVER.wait(run.random.uniform(0.1, longest))
    if run.random.random() < 1 / 2:
        run.cluster.api.store.compact()
    run.cluster.api.restart()
    return "restarted the API server"


def kill_pod(run: Any) -> str:
    """Another fault after which a body may begin twice."""
    with run.cluster.api.store.changed:
        running = [
            pod
            for (kind, _, _), pod in run.cluster.api.store._objects.items()
            if kind == "pods" and pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]
    if not running:
        return "killed no pod: none runs"
    victim = run.random.choice(running)
    run.destroyed.append(victim["metadata"]["annotations"]["cellwork.task-id"])
    run.cluster.node.kill(victim["metadata"]["name"])
    return f"killed pod {victim['metadata']['name']}"


def deliver_twice(run: Any) -> str:
    """A copy of a message that a worker has now."""
    held: Any = run.client.hvals("unacked")
    if not held:
        return "delivered nothing twice: nothing is held"
    message, _, _ = json.loads(run.random.choice(held))
    run.client.rpush(message["properties"]["delivery_info"]["routing_key"], json.dumps(message))
    return f"delivered {message['headers']['id']} twice"


FAULTS: tuple[Callable[[Any], str], ...] = (
    kill_worker,
    freeze_worker,
    cut_off_worker,
    kill_sandbox,
    restart_redis,
    drop_connections,
    deliver_twice,
    deliver_twice,
    block_engine,
    cut_engine,
    restart_engine,
    restart_api,
    kill_pod,
)

#: What a fault may meet because of an earlier one.
EXPECTED = (RedisError, OSError)
