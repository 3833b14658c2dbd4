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
ARGV[8]  limits   msgpack, for each {dimension, rate|quota|leases, is_tokens, is_key,
                  limit, period_us or window, capacity_us, capacity_rest, is_shadow};
                  a rate's bucket as time, the rest in 1/limit us

Reply    {code, now_us, held, beyond_shadow, requests, tokens of the workspace's places,
         the same four of the key's, then three for each limit: a rate's debt_us and
         rest, or a quota's used and 0, or 0 and 0; and refused 0|1}
         code 0 rejected, 1 admitted, 2 settled or abandoned before

A second run with a held lease id renews it and charges nothing.
]]
reclaim()
look_at_limits()

local function decide()
  if mode == 'preview' then return is_refused and 0 or 1 end
  local charge, is_held, is_barred = find_lease(lease_id)
  if is_held then
    refused = { [false] = charge[REFUSED], [true] = charge[REFUSED + 1] }
  elseif charge and mode == 'adopt' then
    take_places(charge, 1)
  elseif is_barred then
    return 2
  elseif is_refused and mode == 'admit' then
    return 0
  else
    if mode == 'adopt' then refused = { [false] = {}, [true] = {} } end
    charge = charge_all()
  end
  hold(lease_id, charge, now_us + ttl_us)
  return 1
end

local code = decide()
local reply = { code, now_us }
for _, id in ipairs({ WORKSPACE, key_scope }) do
  local places = id == '' and { 0, 0, 0, 0 } or scope_of(id).places
  for i = 1, 4 do reply[#reply + 1] = places[i] end
end
for _, limit in ipairs(limits) do
  add_state(reply, limit, refused[limit[IS_KEY]][limit[DIMENSION]])
end
if mode ~= 'preview' then write(ttl_us) end
return reply
