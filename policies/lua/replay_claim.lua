#!lua
--[[
Take a key for a request that is to run, unless it is taken.

KEYS[1]  the key's record, a hash
KEYS[2]  its answer

ARGV[1]  fingerprint  of what is asked
ARGV[2]  owner        who asks
ARGV[3]  lease_ms     how long the claim lives without being renewed

Reply    {0} it is the asker's; {1, answer}; {2} somebody runs it; {3} something else
         was asked under this key

A second run by the same owner replies the same.
]]
local held = redis.call('HMGET', KEYS[1], 'fingerprint', 'owner')
if not held[1] then
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'owner', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  redis.call('DEL', KEYS[2])
  return { 0 }
end
if held[1] ~= ARGV[1] then
  return { 3 }
end
if held[2] then
  return { held[2] == ARGV[2] and 0 or 2 }
end
local answer = redis.call('GET', KEYS[2])
if not answer then
  -- Evicted, or deleted by hand: what is left of it must not bar the key.
  redis.call('HSET', KEYS[1], 'owner', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return { 0 }
end
return { 1, answer }
