"""A result goes to the backend in one request, where Celery's Redis backend needs two.

Celery reads what is stored, so that nothing replaces a SUCCESS, and then writes and publishes: a round trip more for
each task, and a moment in which another worker may store one. Here a script looks, writes and publishes in one step.
"""

import functools
from typing import Any

from celery import states
from celery.backends.redis import RedisBackend
from kombu.utils.encoding import bytes_to_str

#: How a stored result begins; and how one does that stays. Celery puts the status first.
_BEGINNING = '{"status": "'
_STAYS = f'{_BEGINNING}{states.SUCCESS}"'

#: KEYS: the result's. ARGV: the result, seconds that it is kept (0: for ever), how one begins that stays.
_STORE = """
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[3] - 1) == ARGV[3] then return 0 end
if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1]) else redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1]) end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
"""


def store_at_once() -> None:
    """From here on this process stores that way; other formats than JSON, and other backends, as ever."""
    backend: Any = RedisBackend
    original = backend._store_result
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def store(
        self: Any, task_id: Any, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = bytes_to_str(task_id)
        text = self.encode(meta)
        if not isinstance(text, str) or not text.startswith(_BEGINNING) or len(text) > self._MAX_STR_VALUE_SIZE:
            return original(self, task_id, result, state, traceback=traceback, request=request, **kwargs)
        expires = self.failure_expires if state == states.FAILURE else self.expires
        script = self.client.register_script(_STORE)
        self.ensure(script, ([self.get_key_for_task(task_id)], [text, int(expires or 0), _STAYS]))
        return result

    backend._store_result = store
