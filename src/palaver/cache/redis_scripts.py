"""What Redis does in one step. Time is the server's, unless a test gives another: `0` asks for it.

Every script names the keys it touches, and they share a hash tag; it reads everything before it writes anything, so an
error never leaves half of it done.
"""

from __future__ import annotations

from palaver.caching import HIGHEST_REVISION, SLICES
from palaver.connections.redis import Script

SEEN_FOR_MS = 30 * 86_400_000
HEAD = 17
"""A value begins with `v`, a fence with `f`, and then 16 digits of revision."""
WITHOUT_EXPECTATION = -2

assert len(str(HIGHEST_REVISION)) == HEAD - 1

SET = Script(
    "set",
    f"""
local head = redis.call('GETRANGE', KEYS[1], 0, {HEAD - 1})
local revision, expected, there = tonumber(ARGV[3]), tonumber(ARGV[4]), -1
local kind, held = string.match(head, '^([vf])(%d+)$')
if kind and #head == {HEAD} then
  held = tonumber(held)
  if revision > 0 and held > revision then return 0 end
  if kind == 'v' then there = held end
end
if expected ~= {WITHOUT_EXPECTATION} and there ~= expected then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""",
)

FENCE = Script(
    "fence",
    f"""
local head = redis.call('GETRANGE', KEYS[1], 0, {HEAD - 1})
local kind, held = string.match(head, '^([vf])(%d+)$')
if not kind or #head < {HEAD} or tonumber(held) < tonumber(ARGV[3]) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
""",
)

# Limits of one key lie in one hash, a field each: three rules cost three calls of Redis and not seven. A hash lives twice as
# long as it says anything, so that its expiry is seldom set; what rests in it counts as nothing. Tables and numbers in text
# are what costs time in a script, so states and answers are packed, and buckets that are charged one each, of one key, have scripts of
# their own: they are what is asked all the time.
TAKE_BUCKET = Script(
    "take_bucket",
    """
local call, floor, unpack, pack = redis.call, math.floor, struct.unpack, struct.pack
local now, period, amount, room = unpack('<dddd', ARGV[1])
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end
local key, field = KEYS[1], ARGV[2]
local state = call('HGET', key, field)
local after, since = period, now
if state then
  local debt
  debt, since = unpack('<dd', state)
  if now > since then
    debt = debt - (now - since) * amount
    if debt < 0 then debt = 0 end
    since = now
  end
  after = debt + period
end
if after > room then return pack('<i8i8i8', 0, 0, math.ceil((after - room) / amount) + since - now) end
call('HSET', key, field, pack('<dd', after, since))
local lives = after / amount + since - now + 1
if call('PTTL', key) < lives then call('PEXPIRE', key, math.ceil(lives * 2)) end
return floor((room - after) / period)
""",
)

TAKE_BUCKETS = Script(
    "take_buckets",
    """
local call, floor, unpack, pack = redis.call, math.floor, struct.unpack, struct.pack
local asked, key, kept, left, lives, waits = ARGV[1], KEYS[1], {}, {}, 0, nil
local now, at = unpack('<d', asked)
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end
local states = call('HMGET', key, _G.unpack(ARGV, 2))
for i = 1, #states do
  local period, amount, room
  period, amount, room, at = unpack('<ddd', asked, at)
  local state = states[i]
  local after, since = period, now
  if state then
    local debt
    debt, since = unpack('<dd', state)
    if now > since then
      debt = debt - (now - since) * amount
      if debt < 0 then debt = 0 end
      since = now
    end
    after = debt + period
  end
  if after > room then
    waits = waits or {}
    waits[i] = math.ceil((after - room) / amount) + since - now
  else
    local life = after / amount + since - now + 1
    if life > lives then lives = life end
    kept[2 * i - 1], kept[2 * i] = ARGV[i + 1], pack('<dd', after, since)
  end
  left[i] = floor((room - after) / period)
end
if waits then
  -- Nothing is charged, so what would have been left is still there.
  local said = pack('<i8', 0)
  for i = 1, #left do said = said .. pack('<i8i8', math.max(0, left[i] + 1), waits[i] or 0) end
  return said
end
call('HSET', key, _G.unpack(kept))
if call('PTTL', key) < lives then call('PEXPIRE', key, math.ceil(lives * 2)) end
return pack('<' .. string.rep('i8', #left), _G.unpack(left))
""",
)

TAKE = Script(
    "take",
    f"""
local call, floor, ceil, unpack, pack = redis.call, math.floor, math.ceil, struct.unpack, struct.pack
local now, charges, at = unpack('<dd', ARGV[1])
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end
local asked, tokens, keys = ARGV[1], tonumber(ARGV[2]), #KEYS
local count, token = #ARGV - 2, nil
if tokens == 1 then
  token, keys = KEYS[keys], keys - 1
  local said = call('GET', token)
  if said then return said end
end
local states, lives, answer, kept, allowed = nil, 0, {{}}, {{}}, 1
if keys == 1 then states = call('HMGET', KEYS[1], _G.unpack(ARGV, 3)) end
for i = 1, count do
  local kind, period, amount, room, cost
  kind, period, amount, room, cost, at = unpack('<ddddd', asked, at)
  local state
  if states then state = states[i] else state = call('HGET', KEYS[i], ARGV[i + 2]) end
  local remaining, retry = 0, 0
  if kind == 0 then
    local debt, since = 0, now
    if state then
      debt, since = unpack('<dd', state)
      if now > since then
        debt = debt - (now - since) * amount
        if debt < 0 then debt = 0 end
        since = now
      end
    end
    local after = debt + cost * period
    if after > room then
      retry = cost * period > room and -1 or ceil((after - room) / amount) + since - now
      remaining = floor((room - debt) / period)
    else
      local life = after / amount + since - now + 1
      if life > lives then lives = life end
      kept[2 * i] = pack('<dd', after, since)
      remaining = floor((room - after) / period)
    end
  else
    local slot, used, old = floor(now / period), 0, 0
    local from, length = 1, state and #state or 0
    if length > 0 then
      local last = unpack('<d', state, length - 15)
      if last > slot then slot = last end
      local place = 1
      while place < length do
        local held, hits, following = unpack('<dd', state, place)
        if held < slot - {SLICES} then from = following else used = used + hits end
        place = following
      end
    end
    local over = used + cost - room
    if over > 0 then
      remaining, retry = room - used, -1
      local place = from
      while cost <= room do
        local held, hits, following = unpack('<dd', state, place)
        over, place = over - hits, following
        if over <= 0 then
          retry = (held + {SLICES + 1}) * period - now
          break
        end
      end
    else
      if from > length then
        state = ''
      else
        local held, hits = unpack('<dd', state, length - 15)
        if held == slot then
          old, length = hits, length - 16
        end
        state = string.sub(state, from, length)
      end
      local life = (slot + {SLICES + 1}) * period - now
      if life > lives then lives = life end
      kept[2 * i] = state .. pack('<dd', slot, old + cost)
      remaining = -over
    end
  end
  if retry ~= 0 then allowed = 0 end
  if remaining < 0 then remaining = 0 end
  answer[2 * i - 1], answer[2 * i] = remaining, retry
  kept[2 * i - 1] = ARGV[i + 2]
end
if allowed == 1 and charges == 1 then
  if keys == 1 then
    call('HSET', KEYS[1], _G.unpack(kept))
  else
    for i = 1, count do call('HSET', KEYS[i], kept[2 * i - 1], kept[2 * i]) end
  end
  for i = 1, keys do
    if call('PTTL', KEYS[i]) < lives then call('PEXPIRE', KEYS[i], ceil(lives * 2)) end
  end
else
  -- Nothing is charged, so what would have been left is still there.
  local from = 17
  for i = 1, count do
    local kind, period, amount, room, cost
    kind, period, amount, room, cost, from = unpack('<ddddd', asked, from)
    if answer[2 * i] == 0 then answer[2 * i - 1] = answer[2 * i - 1] + cost end
  end
end
local said = pack('<' .. string.rep('i8', 1 + 2 * count), allowed, _G.unpack(answer))
-- A refusal charged nothing, and is not kept: who waited as long as it was told must pass.
if token and allowed == 1 then call('PSETEX', token, 60000, said) end
return said
""",
)

TOUCH = Script(
    "touch",
    f"""
local call, now, ttl = redis.call, tonumber(ARGV[1]), tonumber(ARGV[2])
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local left = call('PTTL', KEYS[1])
call('ZADD', KEYS[1], now + ttl, ARGV[3])
call('ZADD', KEYS[2], now, ARGV[3])
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - {SEEN_FOR_MS})
if left < ttl then call('PEXPIRE', KEYS[1], ttl) end
call('PEXPIRE', KEYS[2], {SEEN_FOR_MS})
return 1
""",
)

PRESENT = Script(
    "present",
    """
local call, now = redis.call, tonumber(ARGV[1])
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
if ARGV[2] == '0' then return call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf') end
local found = call('ZREVRANGEBYSCORE', KEYS[1], '+inf', '(' .. string.format('%.0f', now), 'LIMIT', 0, ARGV[2])
local answer = {}
for i = 1, #found do
  answer[2 * i - 1], answer[2 * i] = found[i], call('ZSCORE', KEYS[2], found[i])
end
return answer
""",
)

AMONG = Script(
    "among",
    """
local call, now = redis.call, tonumber(ARGV[1])
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local answer = {}
for i = 2, #ARGV do
  local ends = call('ZSCORE', KEYS[1], ARGV[i])
  answer[i - 1] = ends and tonumber(ends) > now and 1 or 0
end
return answer
""",
)

LAST_SEEN = Script(
    "last_seen",
    f"""
local call, now = redis.call, tonumber(ARGV[1])
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local answer = {{}}
for i = 2, #ARGV do
  local seen = call('ZSCORE', KEYS[1], ARGV[i])
  if not seen or tonumber(seen) <= now - {SEEN_FOR_MS} then seen = '' end
  answer[i - 1] = seen
end
return answer
""",
)

# A window is one sorted set, so that it is evicted and expires as a whole. All scores are equal, so members are in the order
# of their bytes: first one that begins with U+0000 and says what the window is, then `id U+0000 tokens U+0000 data`.
_HEAD = """
local call = redis.call
local head = call('ZRANGE', KEYS[1], 0, 0)[1]
local whole, keep, complete, ticket
if head then
  whole, keep, complete, ticket = string.match(head, '^%z(%d):(%d+):(%d):(%x*)$')
  if not whole then return redis.error_reply('WRONGTYPE not a window of ours') end
end
local function say(text)
  if head then call('ZREM', KEYS[1], head) end
  call('ZADD', KEYS[1], 0, '\\0' .. text)
end
local function same(id) return '[' .. id .. '\\0', '(' .. id .. '\\1' end
local function trim()
  local count = call('ZCARD', KEYS[1]) - 1
  if count > tonumber(keep) then
    call('ZREMRANGEBYRANK', KEYS[1], 1, count - keep)
    return true
  end
end
"""

PUSH = Script(
    "push",
    _HEAD
    + """
if not head then return 0 end
for i = 2, #ARGV, 2 do
  local from, to = same(ARGV[i])
  if call('ZLEXCOUNT', KEYS[1], from, to) == 0 then call('ZADD', KEYS[1], 0, ARGV[i + 1]) end
end
if whole == '1' then
  if trim() and complete == '1' then say('1:' .. keep .. ':0:' .. ticket) end
  call('PEXPIRE', KEYS[1], ARGV[1])
end
return 1
""",
)

BEGIN = Script(
    "begin",
    _HEAD
    + """
if head and ticket ~= '' then return {ticket, 0} end
if head then
  say(whole .. ':' .. keep .. ':' .. complete .. ':' .. ARGV[2])
else
  say('0:0:0:' .. ARGV[2])
end
if call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then call('PEXPIRE', KEYS[1], ARGV[1]) end
return {ARGV[2], 1}
""",
)

REPLACE = Script(
    "replace",
    _HEAD
    + """
if not head or ticket ~= ARGV[1] then return 0 end
keep, complete = ARGV[2], ARGV[3]
for i = 5, #ARGV, 2 do
  local from, to = same(ARGV[i])
  call('ZREMRANGEBYLEX', KEYS[1], from, to)
  call('ZADD', KEYS[1], 0, ARGV[i + 1])
end
if trim() then complete = '0' end
say('1:' .. keep .. ':' .. complete .. ':')
call('PEXPIRE', KEYS[1], ARGV[4])
return 1
""",
)

ALL = (SET, FENCE, TAKE_BUCKET, TAKE_BUCKETS, TAKE, TOUCH, PRESENT, AMONG, LAST_SEEN, PUSH, BEGIN, REPLACE)
