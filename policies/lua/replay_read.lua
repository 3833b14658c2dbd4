#!lua flags=no-writes
--[[
Read on in an answer.

KEYS[1]  record, KEYS[2] pieces, as in replay_sizes.lua

ARGV[1]  recording  under whose name it is read
ARGV[2]  offset     how much of it is known
ARGV[3]  count      of pieces, at most
ARGV[4]  most_bytes of pieces together, but for the first
ARGV[5]  head       1 if its head is not known

Reply    {0} given up, or its owner died; {1, head, pieces, bytes} it goes on;
         {2, head, pieces, bytes} it is complete
]]
local held = redis.call('HMGET', KEYS[1], 'recording', 'until', 'head', 'withdrawn', 'bytes')
if held[1] ~= ARGV[1] or held[4] then return { 0 } end
if held[2] then
  local time = redis.call('TIME')
  if tonumber(held[2]) <= time[1] * 1000 + math.floor(time[2] / 1000) then
    return { 0 }
  end
end
local from = ARGV[2] == '0' and '-' or '(' .. ARGV[2] .. '-1'
local pieces = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', ARGV[3])
if not held[2] and redis.call('EXISTS', KEYS[2]) == 0 then return { 0 } end
local left, fitting = tonumber(ARGV[4]), {}
for i = 1, #pieces do
  left = left - #pieces[i][2][2]
  if i > 1 and left < 0 then break end
  fitting[i] = pieces[i]
end
local head = ARGV[5] == '1' and held[3] or ''
return { held[2] and 1 or 2, head, fitting, tonumber(held[5] or 0) }
