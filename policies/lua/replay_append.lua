--[[
Record what an answer has grown by, keep its claim alive, or keep it for good.

ARGV[1]  owner
ARGV[2]  lease_ms
ARGV[3]  known_ms     how long it is remembered after the lease who had it
ARGV[4]  digest       of the key, as in its names
ARGV[5]  start        where in the answer's body the piece begins
ARGV[6]  end          and ends
ARGV[7]  head         packed, or empty
ARGV[8]  piece        packed, or empty
ARGV[9]  most_bytes   that the workspace's recordings may take
ARGV[10] ttl_ms       how long the answer lives, which ends with this; 0 if it goes on
ARGV[11] fingerprint  where this is the whole answer, which needs no claim; or empty

Reply    {held 0|1, followed 0|1, room 0|1, digest, ...}; without room nothing was
         recorded, and the digests are of what was answered longest ago

A second run changes nothing but the expiry.
]]
local owner, digest, head, piece = ARGV[1], ARGV[4], ARGV[7], ARGV[8]
local first, last, ttl_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[10])
local held = redis.call('HMGET', KEYS[1], 'recording', 'until', 'bytes', 'followed')
if not held[1] and ARGV[11] ~= '' then
  -- The claim was lost, and nobody has taken the key since.
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[11], 'recording', owner)
elseif held[1] == owner and not held[2] and ttl_ms > 0 then
  return { 1, 0, 1 } -- this was done before
elseif held[1] ~= owner or not held[2] then
  return { 0, 0, 1 }
end
local followed = held[4] and tonumber(held[4]) > now_ms and 1 or 0

-- What is over is counted no longer: a few at a time.
for at = 4, 5 do
  local past = redis.call('ZRANGEBYSCORE', KEYS[at], 0, now_ms, 'LIMIT', 0, 20)
  for i = 1, #past do
    if past[i] ~= digest then uncount(past[i]) end
  end
end

local bytes = held[3] and tonumber(held[3])
if (bytes or 0) > 0 and redis.call('EXISTS', KEYS[2]) == 0 then
  return { 0, followed, 1 } -- evicted, or its owner was late by more than a lease
end
if piece ~= '' and bytes ~= last then
  if (bytes or 0) ~= first then return { 0, followed, 1 } end
  -- What Redis itself takes for an entry, about.
  local size = #piece + 100
  local total = tonumber(redis.call('HGET', KEYS[3], 'total') or 0)
  if total + size > tonumber(ARGV[9]) then
    local oldest = redis.call('ZRANGE', KEYS[5], 0, 7)
    return { 1, followed, 0, unpack(oldest) }
  end
  redis.call('XADD', KEYS[2], string.format('%d-1', last), 'p', piece)
  redis.call('HINCRBY', KEYS[3], 'total', size)
  redis.call('HINCRBY', KEYS[3], digest, size)
  redis.call('HSET', KEYS[1], 'bytes', ARGV[6])
end
if head ~= '' then redis.call('HSET', KEYS[1], 'head', head) end

local lives_ms = ttl_ms
if ttl_ms > 0 then
  redis.call('HDEL', KEYS[1], 'until', 'dead', 'followed', 'withdrawn')
  redis.call('ZREM', KEYS[4], digest)
else
  redis.call('HSET', KEYS[1], 'until', string.format('%d', now_ms + ARGV[2]))
  -- Nobody reads what the dead have recorded; a lease more for who is only late.
  lives_ms = 2 * ARGV[2]
end
redis.call('PEXPIRE', KEYS[1], lives_ms + (ttl_ms > 0 and 0 or ARGV[3]))
if redis.call('PEXPIRE', KEYS[2], lives_ms) == 1 then
  redis.call('ZADD', KEYS[ttl_ms > 0 and 5 or 4], now_ms + lives_ms, digest)
  -- All three as long as the longest of what they count: who is counted and no longer
  -- listed would be counted for ever.
  local longest_ms = math.max(lives_ms, redis.call('PTTL', KEYS[3]))
  for at = 3, 5 do
    if redis.call('PTTL', KEYS[at]) < longest_ms then
      redis.call('PEXPIRE', KEYS[at], longest_ms)
    end
  end
end
return { 1, followed, 1 }
