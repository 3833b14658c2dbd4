--[[
Admit a request against every limit at once, or charge nothing.

KEYS[1]  usage    hash, scope -> what is used there (usage.lua)
KEYS[2]  leases   zset, lease id -> what it is, and until when (leases.lua)
KEYS[3]  charges  hash, lease id -> what it was charged (leases.lua)

ARGV[1]  mode     admit; adopt: charge it whatever the limits say; preview: only look
ARGV[2]  lease_id
ARGV[3]  requests
ARGV[4]  tokens   the reservation
ARGV[5]  ttl_us   a lease not renewed for this long is abandoned
ARGV[6]  age_us   how long ago an adopted lease was admitted
ARGV[7]  scope    of a key with limits of its own, or empty
ARGV[8]  limits   msgpack, of each: dimension, rate|quota|leases, is_tokens, is_key,
                  limit, period_us or window, capacity_us, capacity_rest, is_shadow;
                  a rate's bucket as time, the rest in 1/limit us
ARGV[9]  passing  there: the lease takes no place

Reply    {code, now_us, held, beyond_shadow, requests, tokens of the workspace's places,
         the same four of the key's, then three for each limit: a rate's debt_us and
         rest, or a quota's used and 0, or 0 and 0; and refused 0|1; last, how many
         leases this call found abandoned}
         code 0 rejected, 1 admitted, 2 settled or abandoned before

A second run with a held lease id renews it and charges nothing.
]]
local places, of_key = workspace.places, key and key.places or { 0, 0, 0, 0 }
-- Long enough for five limits: to let it grow would take as long as to fill it.
local reply = { code, now_us, places[1], places[2], places[3], places[4],
  of_key[1], of_key[2], of_key[3], of_key[4],
  nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
local size = 10
for at = 1, #limits, 9 do
  local dimension, kind, is_key = limits[at], limits[at + 1], limits[at + 3]
  local meter, a, b = (is_key and key or workspace)[dimension], 0, 0
  if kind == 'quota' then
    a = meter[2]
  elseif kind == 'rate' and meter[1] >= now_us then
    a, b = meter[1] - now_us, meter[2]
  end
  local is_beyond = (is_key and key_refused or refused)[dimension]
  reply[size + 1], reply[size + 2], reply[size + 3] = a, b, is_beyond and 1 or 0
  size = size + 3
end
-- Looking changes nothing, so the next call finds them again.
reply[size + 1] = mode ~= 'preview' and ended and ended.held or 0
if mode == 'preview' then return reply end
local written_id = packed_charge and lease_id
local score, is_refunded, past = now_us + ttl_us, false, nil
