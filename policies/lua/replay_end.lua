#!lua
--[[
Renew a claim, keep an answer in its place, or give it back; only its owner may.

KEYS     as of replay_claim.lua

ARGV[1]  owner
ARGV[2]  ttl_ms    how long what is left lives; 0 forgets it
ARGV[3]  answer    to be kept in place of the claim; absent where that goes on

Reply    {done 0|1}; 0 is a claim that is this owner's no more
]]
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return { 0 }
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1], KEYS[2])
  return { 1 }
end
if ARGV[3] then
  redis.call('HDEL', KEYS[1], 'owner')
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return { 1 }
