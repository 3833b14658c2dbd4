--[[
Forget what was recorded, or have nobody join it any more.

ARGV[1]  owner   whose claim it is; empty to forget an answer, if nobody runs it
ARGV[2]  digest  of the key, as in its names
ARGV[3]  claim   1 if the claim goes on, and nobody may join it; else it is given back

Reply    {done 0|1}; 0 is a claim that is this owner's no more
]]
local held = redis.call('HMGET', KEYS[1], 'recording', 'until')
if ARGV[1] == '' and held[2] or ARGV[1] ~= '' and not (held[1] == ARGV[1] and held[2]) then
  return { 0 }
end
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[1], 'withdrawn', 1)
else
  uncount(ARGV[2])
  redis.call('DEL', KEYS[1], KEYS[2])
end
return { 1 }
