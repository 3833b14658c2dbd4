#!lua flags=no-writes
--[[
How a queue of work stands; changes nothing.

KEYS[1]  due  zset, item -> when it is due, in epoch ms; of a held one, when its lease
              ends

Reply    {items, due, overdue_ms}: all of them, those that are due and that nobody holds,
         and for how long the first of these has been
]]
local due = KEYS[1]
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

local overdue_ms = 0
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
if first[2] then overdue_ms = math.max(0, now_ms - first[2]) end
return {
  redis.call('ZCARD', due),
  redis.call('ZCOUNT', due, '-inf', string.format('%d', now_ms)),
  overdue_ms,
}
