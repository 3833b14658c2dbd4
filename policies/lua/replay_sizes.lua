#!lua
--[[
What a workspace's recordings take, and their forgetting. Shared by the replays' scripts.

KEYS[1]  record   of a key, a hash:
                    fingerprint  of what was asked: what seals it, a colon, a digest
                    recording    the name of who runs it, or ran it
                    until        in epoch ms, when its claim ends; absent once answered
                    dead         who died while running it, by spaces
                    head, bytes  of the answer: its head, and how long it is by now
                    followed     in epoch ms, until when somebody else waits for it
                    withdrawn    1 where nobody can join it
KEYS[2]  pieces   a stream; an entry's id is the place in the answer where it ends
KEYS[3]  sizes    of the workspace, a hash: a record's digest -> bytes, and their total
KEYS[4]  running  of the workspace, a zset: digest -> until when it is remembered
KEYS[5]  kept     the same of what was answered
]]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

-- Takes a record out of the sizes; what it had is deleted by who knows its names.
local function uncount(digest)
  local size = redis.call('HGET', KEYS[3], digest)
  if size then
    redis.call('HINCRBY', KEYS[3], 'total', -size)
    redis.call('HDEL', KEYS[3], digest)
  end
  redis.call('ZREM', KEYS[4], digest)
  redis.call('ZREM', KEYS[5], digest)
end
