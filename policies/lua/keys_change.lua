#!lua
--[[
Change records of API keys, all of them or none, and tell every replica.

KEYS[1]  records   hash, digest -> JSON record; no ttl: a key lives until it is revoked
KEYS[2]  expiries  zset, digest -> when that key expires, in epoch ms

ARGV[1]  channel   where the digest of each changed record is published
ARGV[2]  keep_ms   what expired longer ago than this is dropped on the way
ARGV[3]  ...       four for each record:
                     digest
                     before         the JSON it must have now; '' for no record
                     after          the JSON it gets; '' for no record
                     expires_at_ms  '' for never

Reply    1, or 0 where a record was not as expected and nothing was changed

A second run finds `after` in place of `before` and succeeds again.
]]
local records, expiries = KEYS[1], KEYS[2]
local channel = ARGV[1]
local keep_ms = tonumber(ARGV[2])
local FIRST, STEP = 3, 4
local MOST_DROPPED = 100 -- at once, however many keys expired on the same day

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- Written out, because Lua would send a large number as 1.7e+12.
local until_ms = string.format('%d', now_ms - keep_ms)
local dropped = redis.call(
  'ZRANGE', expiries, '-inf', until_ms, 'BYSCORE', 'LIMIT', 0, MOST_DROPPED
)
for at = FIRST, #ARGV, STEP do
  local digest, before, after = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local now = redis.call('HGET', records, digest) or ''
  if now ~= before and now ~= after then
    return 0
  end
end

if #dropped > 0 then
  redis.call('HDEL', records, unpack(dropped))
  redis.call('ZREM', expiries, unpack(dropped))
end

for at = FIRST, #ARGV, STEP do
  local digest, after, expires_at_ms = ARGV[at], ARGV[at + 2], ARGV[at + 3]
  if after == '' then
    redis.call('HDEL', records, digest)
  else
    redis.call('HSET', records, digest, after)
  end
  if after == '' or expires_at_ms == '' then
    redis.call('ZREM', expiries, digest)
  else
    redis.call('ZADD', expiries, expires_at_ms, digest)
  end
  redis.call('PUBLISH', channel, digest)
end
return 1
