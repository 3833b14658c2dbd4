#!lua
--[[
Forget a record, or that there was one.

KEYS[1]  record, KEYS[2] index, as in job_record.lua

ARGV[1]  id

Reply    how many there were: 0 or 1
]]
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
