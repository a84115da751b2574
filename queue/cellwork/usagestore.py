"""The usage of runs in the broker's Redis: the newest runs as they were, and per task a rolling histogram."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from . import usage
from .broker import Broker
from .usage import MEASURES, Run, Summary

#: Runs that are kept, the newest ones: about 5 MB.
_RUNS = 10_000

#: Tasks that have a summary, those that ran last; and seconds that one is kept after the task's last run.
_TASKS, _KEEP = 1_000, 30 * 86400

#: After so many runs the counts of a task's histograms are halved, so that old runs fade.
_WINDOW = 1_024

_READ = 500

#: KEYS: stream of runs, index of tasks. ARGV: the run, its task, now, how many runs, tasks, seconds, runs of a window;
#: then how many sums; of each its field, and what to add; then buckets to add one to.
_ADD = """
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'run', ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
local surplus = redis.call('ZCARD', KEYS[2]) - ARGV[5]
if surplus > 0 then
  for _, task in ipairs(redis.call('ZRANGE', KEYS[2], 0, surplus - 1)) do
    redis.call('ZREM', KEYS[2], task)
    redis.call('DEL', KEYS[2] .. ':' .. task)
  end
end
local key = KEYS[2] .. ':' .. ARGV[2]
redis.call('HINCRBY', key, 'runs', 1)
local buckets = 9 + 2 * ARGV[8]
for i = 9, buckets - 1, 2 do redis.call('HINCRBYFLOAT', key, ARGV[i], ARGV[i + 1]) end
for i = buckets, #ARGV do redis.call('HINCRBY', key, ARGV[i], 1) end
if redis.call('HINCRBY', key, 'window', 1) >= tonumber(ARGV[7]) then
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if string.find(all[i], ':', 1, true) or all[i] == 'window' then
      local half = math.floor(all[i + 1] / 2)
      if half > 0 then redis.call('HSET', key, all[i], half) else redis.call('HDEL', key, all[i]) end
    end
  end
end
redis.call('EXPIRE', key, ARGV[6])
"""


class UsageStore:
    """All methods may raise `redis.RedisError`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._runs = broker.key("usage", "runs")
        self._tasks = broker.key("usage", "tasks")

    def add(self, runs: Sequence[Run]) -> None:
        """Add some, together."""
        client, keys = self._broker.client, [self._runs, self._tasks]
        add = client.register_script(_ADD)
        if len(runs) == 1:
            # A pipeline first asks whether the script is there.
            add(keys, _arguments(runs[0]))
            return
        with client.pipeline(transaction=False) as pipe:
            for run in runs:
                add(keys, _arguments(run), client=pipe)
            pipe.execute()

    def runs(self, since: float = 0.0, task: str | None = None) -> Iterator[Run]:
        """Those that are kept, oldest first; ended not before `since` (seconds since the epoch), and of that task."""
        # A stream's ids are the Redis server's milliseconds: near enough to begin at.
        client: Any = self._broker.client
        start = f"{max(0, int(since * 1000) - 60_000)}"
        while batch := client.xrange(self._runs, min=start, count=_READ):
            for _, fields in batch:
                run = msgspec.json.decode(fields[b"run"], type=Run)
                if run.ended >= since and task in (None, run.task):
                    yield run
            start = f"({batch[-1][0].decode()}"

    def newest(self, count: int) -> list[Run]:
        """So many of those that ended last, the last one first."""
        client: Any = self._broker.client
        found = client.xrevrange(self._runs, count=count)
        return [msgspec.json.decode(fields[b"run"], type=Run) for _, fields in found]

    def summaries(self, task: str | None = None) -> list[Summary]:
        """Of all tasks, or of one; the dearest in processor-seconds first."""
        client: Any = self._broker.client
        names = [task] if task is not None else [name.decode() for name in client.zrange(self._tasks, 0, -1)]
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(f"{self._tasks}:{name}")
            found = [_summary(name, fields) for name, fields in zip(names, pipe.execute(), strict=True) if fields]
        return sorted(found, key=lambda summary: -summary.cpu_seconds)


def _arguments(run: Run) -> list[Any]:
    added = {"failed": float(run.failed), **usage.sums(run)}
    buckets = [f"{name}:{usage.bucket(value)}" for name, value in run.measured().items()]
    text = msgspec.json.encode(run)
    pairs = [part for name, value in added.items() for part in (name, value)]
    return [text, run.task, run.ended, _RUNS, _TASKS, _KEEP, _WINDOW, len(added), *pairs, *buckets]


def _summary(task: str, fields: dict[bytes, bytes]) -> Summary:
    counts: dict[str, dict[int, int]] = {name: {} for name in MEASURES}
    for field, count in fields.items():
        name, colon, index = field.decode().partition(":")
        if colon and name in counts:
            counts[name][int(index)] = int(count)
    quantiles = {name: usage.of_histogram(found) for name, found in counts.items()}
    return Summary(
        task=task,
        runs=int(fields.get(b"runs", 0)),
        failed=int(float(fields.get(b"failed", 0))),
        **{name: float(fields.get(name.encode(), 0)) for name in usage.SUMS},
        quantiles={name: found for name, found in quantiles.items() if found is not None},
    )
