#!lua
--[[
Collect what is not there yet.

KEYS[1]  collection  hash, name -> entry

ARGV[1]  ttl_ms  from now
ARGV[2]  ...     name and entry of each

Reply    how many were new
]]
local new = 0
for at = 2, #ARGV, 2 do
  new = new + redis.call('HSETNX', KEYS[1], ARGV[at], ARGV[at + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return new
