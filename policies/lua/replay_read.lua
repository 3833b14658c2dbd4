#!lua
--[[
Read on in an answer, and have its runner know that somebody does.

KEYS[1]  record, KEYS[2] pieces, as in replay_sizes.lua

ARGV[1]  recording   under whose name it is read
ARGV[2]  offset      how much of it is known
ARGV[3]  count       of pieces, at most
ARGV[4]  most_bytes  of pieces together, but for the first
ARGV[5]  head        1 if its head is not known
ARGV[6]  follow_ms   for how long the reader is taken to wait for more; 0 if the runner
                     knows of it

Reply    {0} given up, or its owner died; {1, head, pieces, bytes} it goes on;
         {2, head, pieces, bytes} it is complete
]]
local held = redis.call('HMGET', KEYS[1], 'recording', 'until', 'head', 'withdrawn',
  'bytes', 'followed')
if held[1] ~= ARGV[1] then return { 0 } end
if held[2] then
  local time = redis.call('TIME')
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  if tonumber(held[2]) <= now_ms then return { 0 } end
  -- Seldom: most looks find it marked.
  local is_marked = held[6] and tonumber(held[6]) >= now_ms + ARGV[6] / 2
  if ARGV[6] ~= '0' and not is_marked then
    local until_ms = string.format('%d', now_ms + ARGV[6])
    redis.call('HSET', KEYS[1], 'followed', until_ms)
  end
end
local from = ARGV[2] == '0' and '-' or '(' .. ARGV[2] .. '-1'
local pieces = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', ARGV[3])
if held[4] and #pieces == 0 then return { 0 } end
if not held[2] and redis.call('EXISTS', KEYS[2]) == 0 then return { 0 } end
local left, fitting = tonumber(ARGV[4]), {}
for i = 1, #pieces do
  left = left - #pieces[i][2][2]
  if i > 1 and left < 0 then break end
  fitting[i] = pieces[i]
end
local head = ARGV[5] == '1' and held[3] or ''
return { held[2] and 1 or 2, head, fitting, tonumber(held[5] or 0) }
