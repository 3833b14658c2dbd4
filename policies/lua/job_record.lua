#!lua
--[[
Keep a record, or change one that is as it was read.

KEYS[1]  record  hash: body, version; with a ttl
KEYS[2]  index   zset of the ids of its kind, all of score 0; lives as long as the last

ARGV[1]  id
ARGV[2]  body
ARGV[3]  version  it must have now; 0 for none at all
ARGV[4]  ttl_ms   from now on; 0 for as long as before, of one that is there

Reply    1, or 0 where the record was not as expected and nothing was changed
]]
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'body', ARGV[2], 'version', version + 1)
if version == '0' then redis.call('ZADD', KEYS[2], 0, ARGV[1]) end
if ARGV[4] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[4]) then
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
  end
end
return 1
