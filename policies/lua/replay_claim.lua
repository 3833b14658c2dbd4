--[[
Take a key for a request that is to run, unless it is taken.

ARGV[1]  owner
ARGV[2]  lease_ms     how long the claim lives without being renewed
ARGV[3]  known_ms     how long it is remembered after that who had it
ARGV[4]  replaces     1 takes the key also where there is an answer
ARGV[5]  digest       of the key, as in its names
ARGV[6]  fingerprint  of what is asked, as it is written; others that it may lie as follow

Reply    {0, dead} it is the asker's; {1, recording} answered; {2, recording, withdrawn}
         somebody runs it; {3} something else was asked under this key; {4} what was
         asked is sealed with a key that is not the asker's

A second run by the same owner replies the same.
]]
local owner = ARGV[1]
local held = redis.call('HMGET', KEYS[1], 'fingerprint', 'recording', 'until', 'dead',
  'withdrawn')
local dead = ''
if held[1] then
  local is_same, is_readable = false, false
  local seal = string.match(held[1], '^[^:]*:')
  for at = 6, #ARGV do
    is_same = is_same or held[1] == ARGV[at]
    is_readable = is_readable or string.sub(ARGV[at], 1, #seal) == seal
  end
  local is_dead = held[3] and tonumber(held[3]) <= now_ms
  if not is_dead then
    if not is_same then return { is_readable and 3 or 4 } end
    if held[3] and held[2] == owner then return { 0, held[4] or '' } end
    if held[3] then
      return { 2, held[2], held[5] and 1 or 0 }
    end
    -- Evicted, or deleted by hand: what is left of it must not bar the key.
    if ARGV[4] == '0' and redis.call('EXISTS', KEYS[2]) == 1 then
      return { 1, held[2] }
    end
  elseif is_same then
    dead = held[2]
    -- As many as anybody could miss: what each had was given up by the one after it.
    if held[4] and #held[4] < 500 then dead = held[4] .. ' ' .. dead end
  end
end
uncount(ARGV[5])
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[6], 'recording', owner, 'until',
  string.format('%d', now_ms + ARGV[2]))
if dead ~= '' then redis.call('HSET', KEYS[1], 'dead', dead) end
redis.call('PEXPIRE', KEYS[1], ARGV[2] + ARGV[3])
return { 0, dead }
