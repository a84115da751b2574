"""Idempotency keys: the same key gives the same task, while that is pending, runs, or has succeeded not long ago."""

import hashlib
from typing import Any

from celery import Celery, states

from . import settings
from .broker import Broker
from .errors import InvalidSpec

#: Seconds: of a key whose task is being sent, so that a producer that dies meanwhile does not keep it; and of one whose
#: task is pending or runs.
_SENDING, _OPEN = 60, 7 * 86400

#: KEYS: the key. ARGV: whose it must be (empty: nobody's), the new owner, seconds. Gives whose it is then.
_TAKE = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return ARGV[2]
"""

#: KEYS: the key. ARGV: whose it must be, seconds; 0 frees it.
_KEEP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('EXPIRE', KEYS[1], ARGV[2])
"""

#: Options of a call that is a part of something larger, which would wait for a task that is never sent.
_CANVAS = ("chain", "chord", "group_id")


class Keys:
    """Of one app. All methods may raise `redis.RedisError`."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._broker = Broker(app)
        self._ttl = settings.load(app).idempotency_ttl

    def close(self) -> None:
        """Disconnect."""
        self._broker.close()

    def take(self, task: str, key: str, task_id: str) -> str:
        """The id of the task that has the key: `task_id`, which is then to be sent, or an earlier one."""
        holder = self._take(task, key, "", task_id)
        if holder != task_id and self._app.AsyncResult(holder).state in (states.FAILURE, states.REVOKED):
            return self._take(task, key, holder, task_id)
        return holder

    def sent(self, task: str, key: str, task_id: str) -> None:
        """It was sent: the key is its until it has ended."""
        self._keep(task, key, task_id, _OPEN)

    def succeeded(self, task: str, key: str, task_id: str) -> None:
        """It has succeeded: the key is its for ``idempotency_ttl`` seconds more."""
        self._keep(task, key, task_id, int(self._ttl))

    def free(self, task: str, key: str, task_id: str) -> None:
        """It was not sent, or has failed: the next call with this key runs."""
        self._keep(task, key, task_id, 0)

    def _take(self, task: str, key: str, held: str, task_id: str) -> str:
        script = self._broker.client.register_script(_TAKE)
        found: Any = script(keys=[self._name(task, key)], args=[held, task_id, _SENDING])
        return str(found.decode())

    def _keep(self, task: str, key: str, task_id: str, seconds: int) -> None:
        self._broker.client.register_script(_KEEP)(keys=[self._name(task, key)], args=[task_id, seconds])

    def _name(self, task: str, key: str) -> str:
        # Hashed: a user's key may hold anything, and be long.
        return self._broker.key("idempotency", task, hashlib.sha256(key.encode()).hexdigest())


def check(task: str, key: object, options: dict[str, Any]) -> str:
    """The key as it was given.

    Raises:
        InvalidSpec: it is no text, or the call is a part of a canvas.
    """
    if not isinstance(key, str) or not key:
        raise InvalidSpec(f"task {task}: idempotency_key={key!r} is not accepted; it takes a text that is not empty")
    if part := next((name for name in _CANVAS if options.get(name)), None):
        raise InvalidSpec(
            f"task {task}: idempotency_key={key!r} in a canvas ({part}) is not accepted: the rest of it would wait for "
            f"a task that is not sent again. Send this task by itself"
        )
    return key
