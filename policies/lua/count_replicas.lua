#!lua
--[[
Say that a replica lives, or leaves, and count those that live.

KEYS[1]  replicas    zset, replica id -> until when it is taken to live, in epoch ms

ARGV[1]  replica_id
ARGV[2]  ttl_ms      how long it is counted without being heard again; 0: it leaves

Reply    how many live

A second run with the same id only moves its end.
]]
local replicas = KEYS[1]
local replica_id = ARGV[1]
local ttl_ms = tonumber(ARGV[2])

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

redis.call('ZREMRANGEBYSCORE', replicas, '-inf', now_ms)
if ttl_ms == 0 then
  redis.call('ZREM', replicas, replica_id)
else
  redis.call('ZADD', replicas, string.format('%.0f', now_ms + ttl_ms), replica_id)
  -- All live equally long after a word of theirs, so this one is the last to end.
  redis.call('PEXPIRE', replicas, ttl_ms)
end
return redis.call('ZCARD', replicas)
