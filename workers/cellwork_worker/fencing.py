"""Tokens in Redis: who runs which attempt of a task. One round trip a task.

A token belongs to the attempt (task id and retry count), not to a delivery: however often a message is delivered, one
worker at a time may run it. Time is the Redis server's, so that the workers' clocks do not matter.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cellwork.broker import Broker

#: Of the visibility timeout. Below 1, so that a dead worker's token has run out when its message comes back.
LEASE_FRACTION = 0.8

#: Seconds that the token of a task without an outcome is remembered: a message may wait for long.
_KEEP_OPEN = 7 * 86400.0

#: Visibility timeouts, and least seconds, that the token of a task with an outcome is remembered: a second copy of
#: its message that comes later finds the task's result instead, where it has one.
_KEEP_DONE, _KEEP_DONE_LEAST = 10, 600.0

#: KEYS: the token. ARGV: owner, lease and memory in ms, who asks. Gives: answer, deliveries, start, history, alias.
_CLAIM = """
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'owner', 'until', 'done', 'deliveries', 'start', 'history', 'alias')
local deliveries, start, history, alias = tonumber(held[4] or '0'), held[5] or '0', held[6] or '', held[7] or ''
if held[3] then return {'done', deliveries, start, history, alias} end
if held[1] and tonumber(held[2]) > ms then return {'held', deliveries, start, history, alias} end
deliveries = deliveries + 1
history = history .. ARGV[4] .. ' ' .. string.format('%.0f', ms) .. '\\n'
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'until', string.format('%.0f', ms + ARGV[2]),
           'deliveries', deliveries, 'history', history)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'mine', deliveries, start, history, alias}
"""

#: What a renewal gives for a token whose task has its outcome.
DONE = "done"

#: KEYS: tokens. ARGV: lease and memory in ms, then each token's owner. Gives, for each, '' or who has taken it.
_RENEW = """
local now = redis.call('TIME')
local till = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1])
local taken = {}
for i, key in ipairs(KEYS) do
  local held = redis.call('HMGET', key, 'owner', 'done')
  local owner = held[1]
  taken[i] = owner or ''
  if held[2] then
    taken[i] = 'done'
  elseif not owner or owner == ARGV[i + 2] then
    -- One that is not there was lost by a Redis without persistence: nobody else has it either.
    redis.call('HSET', key, 'owner', ARGV[i + 2], 'until', till)
    redis.call('PEXPIRE', key, ARGV[2])
    taken[i] = ''
  end
end
return taken
"""

#: KEYS: the token, then notes that are forgotten in any case. ARGV: owner, memory in ms, '1' where the task has its
#: outcome. Gives 1 if it was the owner's.
_RELEASE = """
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'owner', 'until')
if ARGV[3] == '1' then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'done', '1')
else
  redis.call('HINCRBY', KEYS[1], 'deliveries', -1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""


#: KEYS: the token. ARGV: owner, then fields and values.
_WRITE = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""

#: KEYS: the token, the note under the sandbox's name. ARGV: owner, that name, the note and its memory in ms.
_NOTE = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'alias', ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
return 1
"""


class Claim(msgspec.Struct, frozen=True):
    """The answer to a claim."""

    #: ``mine``: run it. ``held``: another worker runs it. ``done``: it has its outcome.
    answer: str
    #: How often a worker was given this attempt, this time included, unless it gave it back in good order.
    deliveries: int
    #: How often the infrastructure made its worker start a new sandbox.
    start: int
    #: Worker and time (ms) of each, oldest first.
    history: tuple[tuple[str, int], ...]
    #: The name of its sandbox, where that was started ahead of need; empty: the attempt's own name.
    alias: str = ""


class Holding(msgspec.Struct, frozen=True):
    """How a token stands."""

    #: A worker holds it now.
    live: bool = False
    #: Where that worker has its sandbox; empty: not known.
    place: str = ""
    #: Its task has its outcome.
    done: bool = False
    #: Seconds since the epoch, when the last worker's claim ran out; 0: unknown.
    until: float = 0.0


class Tokens:
    """All methods may raise `redis.RedisError`."""

    def __init__(self, broker: Broker, worker: str) -> None:
        """`worker`: Celery's node name, for the history."""
        self._broker = broker
        self._worker = worker
        self.lease = broker.visibility_timeout * LEASE_FRACTION
        self._keep_done = max(_KEEP_DONE * broker.visibility_timeout, _KEEP_DONE_LEAST)

    def key(self, attempt: str) -> str:
        """`attempt`: its sandbox's name, without the count of starts."""
        return self._broker.key("token", attempt)

    def claim(self, attempt: str, owner: str) -> Claim:
        """Ask for the attempt. `owner`: new for every delivery."""
        answer, deliveries, start, history, alias = self._run(
            _CLAIM, [self.key(attempt)], [owner, _ms(self.lease), _ms(_KEEP_OPEN), self._worker]
        )
        entries = (line.rpartition(" ") for line in history.decode().splitlines())
        past = tuple((who, int(when)) for who, _, when in entries)
        return Claim(answer.decode(), deliveries, int(start), past, alias.decode())

    def renew(self, owners: Mapping[str, str]) -> dict[str, str]:
        """Renew `owners` (attempt to owner); return those that others have taken, with the new owner."""
        if not owners:
            return {}
        keys = [self.key(attempt) for attempt in owners]
        taken = self._run(_RENEW, keys, [_ms(self.lease), _ms(_KEEP_OPEN), *owners.values()])
        return {attempt: who.decode() for attempt, who in zip(owners, taken, strict=True) if who}

    def finish(self, attempt: str, owner: str, alias: str = "") -> None:
        """It has its outcome: whoever asks again is told so.

        `alias`: the sandbox that was started ahead of need and is no longer needed; empty: there was none.
        """
        notes = [self._broker.key("warm", alias)] if alias else []
        self._run(_RELEASE, [self.key(attempt), *notes], [owner, _ms(self._keep_done), "1"])

    def give_back(self, attempt: str, owner: str) -> None:
        """It has no outcome, and this worker will not run it: the next may at once, and this one does not count."""
        self._run(_RELEASE, [self.key(attempt)], [owner, _ms(_KEEP_OPEN), "0"])

    def started(self, attempt: str, owner: str, start: int) -> None:
        """Note how many sandboxes were lost, so that another worker looks for the one that runs now."""
        self._run(_WRITE, [self.key(attempt)], [owner, "start", start, "alias", ""])

    def note(self, attempt: str, owner: str, task_id: str, sandbox: str) -> bool:
        """Note that the attempt runs in a sandbox that was started ahead of need, and so has a name of its own.

        False: the token is not the owner's any more.
        """
        keys = [self.key(attempt), self._broker.key("warm", sandbox)]
        note = [f"{attempt} {task_id}", _ms(_KEEP_OPEN)]
        return bool(self._run(_NOTE, keys, [owner, sandbox, *note]))

    def noted(self, sandbox: str) -> tuple[str, str] | None:
        """Attempt and task id that a sandbox started ahead of need was given; None: none yet."""
        found: Any = self._broker.client.get(self._broker.key("warm", sandbox))
        if found is None:
            return None
        attempt, _, task_id = found.decode().partition(" ")
        return attempt, task_id

    def look(self, attempt: str) -> Holding:
        """How it stands."""
        found: Any = self._broker.client.hmget(self.key(attempt), ["owner", "until", "done"])
        now: Any = self._broker.client.time()
        until, place = float(found[1] or 0) / 1000, (found[0] or b"").decode().rpartition("@")[2]
        return Holding(live=bool(found[0]) and until > now[0], place=place, done=bool(found[2]), until=until)

    def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return self._broker.client.register_script(script)(keys=keys, args=args)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
