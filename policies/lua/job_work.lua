#!lua
--[[
Work that is due: who may do it, and when again.

KEYS[1]  due     zset, item -> when it is due, in epoch ms; of a held one, when its
                 lease ends
KEYS[2]  owners  hash, item -> who holds it, or held it last
KEYS[3]  woken   hash, item -> 1 where it was scheduled while somebody held it

ARGV[1]  what  schedule | claim | renew | put_off | finish
ARGV[2]  item; of claim: how many at most
ARGV[3]  owner
ARGV[4]  ms    until it is due, or until the lease ends

Reply    of claim: the items; of the others 1, or 0 where the owner does not hold it
]]
local what, item, owner = ARGV[1], ARGV[2], ARGV[3]
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Written out, because Lua would send a large number as 1.7e+12.
local function at(ms)
  return string.format('%d', ms)
end

local then_ms = at(now_ms + tonumber(ARGV[4]))

if what == 'claim' then
  local items = redis.call(
    'ZRANGE', KEYS[1], '-inf', at(now_ms), 'BYSCORE', 'LIMIT', 0, item
  )
  for i = 1, #items do
    redis.call('ZADD', KEYS[1], then_ms, items[i])
    redis.call('HSET', KEYS[2], items[i], owner)
    redis.call('HDEL', KEYS[3], items[i])
  end
  return items
end

local due_ms = redis.call('ZSCORE', KEYS[1], item)
local holder = redis.call('HGET', KEYS[2], item)
local is_held = holder and due_ms and tonumber(due_ms) > now_ms

if what == 'schedule' then
  if is_held then
    redis.call('HSET', KEYS[3], item, 1)
  elseif not due_ms or tonumber(due_ms) > tonumber(then_ms) then
    redis.call('ZADD', KEYS[1], then_ms, item)
  end
  return 1
end

if not is_held or holder ~= owner then return 0 end
if what == 'renew' then
  redis.call('ZADD', KEYS[1], then_ms, item)
  return 1
end
local is_woken = redis.call('HDEL', KEYS[3], item) == 1
redis.call('HDEL', KEYS[2], item)
if what == 'finish' and not is_woken then
  redis.call('ZREM', KEYS[1], item)
else
  redis.call('ZADD', KEYS[1], is_woken and at(now_ms) or then_ms, item)
end
return 1
