"""The transport's scripts: Lua, run by Redis in one step. What they keep is in docs/design.md, "Queues"."""

from .fairness import GROUP, MARKER, RING

#: Seconds after its last message was taken for which it is remembered that messages of a cap run.
_RUNNING_SECONDS = 30 * 86400

#: KEYS: unacked, unacked_index, what names of caps begin with, then queues. ARGV: now, then for each queue '1' where
#: its messages are acknowledged. Gives which queue it was, the message, whether it is noted, and whether more is in the
#: queues; nothing where there is none that may be taken.
TAKE = f"""
local MARKER, RING, GROUP = '{MARKER}', '{RING}', '{GROUP}'

-- Note it as taken, and as one of those that its caps count.
local function note(raw, acknowledged, caps)
  -- Only what is needed: Lua's decoder refuses some of what Python's accepts, and must not stop the queue.
  local read, properties = pcall(cjson.decode, string.match(raw, '^.*"properties":%s*({{.+}})%s*}}%s*$'))
  local from = read and type(properties) == 'table' and properties['delivery_info']
  local tag = type(from) == 'table' and type(properties['delivery_tag']) == 'string' and properties['delivery_tag']
  if not (acknowledged and tag) then return 0 end
  redis.call('ZADD', KEYS[2], ARGV[1], tag)
  redis.call('HSET', KEYS[1], tag, '[' .. raw .. ',' .. cjson.encode(from['exchange'])
             .. ',' .. cjson.encode(from['routing_key']) .. ']')
  for _, cap in ipairs(caps) do
    redis.call('SADD', KEYS[3] .. cap[1], tag)
    redis.call('EXPIRE', KEYS[3] .. cap[1], {_RUNNING_SECONDS})
  end
  return 1
end

-- True where as many run as may. Those that are no longer unacknowledged do not: whoever had them may have died.
local function full(caps)
  for _, cap in ipairs(caps) do
    local key = KEYS[3] .. cap[1]
    if redis.call('SCARD', key) >= cap[2] then
      for _, tag in ipairs(redis.call('SMEMBERS', key)) do
        if not redis.call('ZSCORE', KEYS[2], tag) then redis.call('SREM', key, tag) end
      end
      if redis.call('SCARD', key) >= cap[2] then return true end
    end
  end
  return false
end

-- The group whose turn it is, its next message, and that one's caps. None: nil, and how many messages may not run yet.
local function turn(queue)
  local waiting, place = 0, -1
  local group = redis.call('LINDEX', queue .. RING, place)
  while group do
    local entry = redis.call('LINDEX', queue .. GROUP .. group, -1)
    if entry then
      local line, raw = string.match(entry, '^([^\\n]*)\\n(.*)$')
      local caps = cjson.decode(line)
      if not full(caps) then return group, raw, caps end
      waiting = waiting + redis.call('LLEN', queue .. GROUP .. group)
      place = place - 1
    else
      redis.call('LREM', queue .. RING, -1, group)
    end
    group = redis.call('LINDEX', queue .. RING, place)
  end
  return nil, waiting
end

-- The oldest message that has no share: those that have one, and may not run yet, are not in its way.
local function behind(queue)
  local last = redis.call('LLEN', queue) - 1
  while last >= 0 do
    local some = redis.call('LRANGE', queue, math.max(0, last - 499), last)
    for i = #some, 1, -1 do
      if string.sub(some[i], 1, #MARKER) ~= MARKER then return some[i] end
    end
    last = last - 500
  end
end

local function more()
  for i = 4, #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 1 then return 1 end
  end
  return 0
end

for i = 4, #KEYS do
  local queue, acknowledged = KEYS[i], ARGV[i - 2] == '1'
  local raw = redis.call('LINDEX', queue, -1)
  while raw do
    -- Taken last, always: where Redis is full the notes are refused, and the message must stay.
    if string.sub(raw, 1, #MARKER) ~= MARKER then
      local noted = note(raw, acknowledged, {{}})
      redis.call('RPOP', queue)
      return {{i - 4, raw, noted, more()}}
    end
    local group, found, caps = turn(queue)
    if group then
      local noted = note(found, acknowledged, caps)
      redis.call('RPOP', queue .. GROUP .. group)
      redis.call('LREM', queue .. RING, -1, group)
      if redis.call('EXISTS', queue .. GROUP .. group) == 1 then redis.call('LPUSH', queue .. RING, group) end
      redis.call('RPOP', queue)
      return {{i - 4, found, noted, more()}}
    end
    raw = nil
    if found == 0 then
      -- It stands for nothing: somebody took the lists away.
      redis.call('RPOP', queue)
      raw = redis.call('LINDEX', queue, -1)
    elseif redis.call('LLEN', queue) > found then
      local free = behind(queue)
      if free then
        local noted = note(free, acknowledged, {{}})
        redis.call('LREM', queue, -1, free)
        return {{i - 4, free, noted, more()}}
      end
    end
  end
end
return nil
"""

#: KEYS: queue, its wake-up tokens. ARGV: the message, how many tokens are kept, for how many seconds.
SEND = """
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LPUSH', KEYS[2], '1')
redis.call('LTRIM', KEYS[2], 0, ARGV[2] - 1)
redis.call('EXPIRE', KEYS[2], ARGV[3])
"""

#: KEYS: queue, ring, the group's list. ARGV: placeholder, group, the message's entry, LPUSH or RPUSH.
PUT = """
redis.call(ARGV[4], KEYS[3], ARGV[3])
if redis.call('LLEN', KEYS[3]) == 1 then redis.call('LPUSH', KEYS[2], ARGV[2]) end
redis.call(ARGV[4], KEYS[1], ARGV[1])
return 1
"""

#: KEYS: queues.
PURGE = f"""
for _, queue in ipairs(KEYS) do
  for _, group in ipairs(redis.call('LRANGE', queue .. '{RING}', 0, -1)) do
    redis.call('DEL', queue .. '{GROUP}' .. group)
  end
  redis.call('DEL', queue .. '{RING}')
end
"""
