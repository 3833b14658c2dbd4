--[[
Admit a request against every limit at once, or charge nothing.

KEYS[1]  usage    hash, dimension -> what is used of it (usage.lua)
KEYS[2]  leases   zset, lease id -> expiry in epoch us (leases.lua)
KEYS[3]  charges  hash, lease id -> what it was charged (leases.lua)
KEYS[4]  settled  zset, lease id -> until when it is barred, in epoch us

ARGV[1]  mode     admit; adopt: charge it whatever the limits say; preview: only look
ARGV[2]  lease_id
ARGV[3]  requests
ARGV[4]  tokens   the reservation
ARGV[5]  ttl_us   a lease not renewed for this long is abandoned
ARGV[6]  age_us   how long ago an adopted lease was admitted
ARGV[7]  scope    of a key with limits of its own, or -
ARGV[8]  ...      five for each limit: dimension, limit, capacity_us, capacity_rest (a
                  rate's bucket as time, the rest in 1/limit us), shadow 0|1

Reply    {code, now_us, held, beyond_shadow, requests, tokens of the workspace's places,
         the same four of the key's, then three for each limit: a rate's debt_us and
         rest, or a quota's used and 0, or 0 and 0; and refused 0|1}
         code 0 rejected, 1 admitted, 2 settled or abandoned before

A second run with a held lease id renews it and charges nothing.
]]
local mode, lease_id, scope = ARGV[1], ARGV[2], ARGV[7]
local requests, tokens = tonumber(ARGV[3]), tonumber(ARGV[4])
local ttl_us, then_us = tonumber(ARGV[5]), now_us - tonumber(ARGV[6])
local key_places = 'places#' .. scope

reclaim()
local dimensions = { 'places', key_places }
for _, limit in ipairs(limits) do
  if not limit.places then dimensions[#dimensions + 1] = limit.dimension end
end
read(dimensions)

local function units_of(limit)
  return string.sub(limit.dimension, 1, 1) == 't' and tokens or requests
end

local refused, is_refused = {}, false
for _, limit in ipairs(limits) do
  if not limit.places then follow_limit(limit) end
  if not has_room(limit, units_of(limit)) then
    refused[limit.dimension] = true
    is_refused = is_refused or not limit.is_shadow
  end
end

local function charge_all()
  local fields = {}
  for _, limit in ipairs(limits) do
    if refused[limit.dimension] then
      fields[#fields + 1] = '!' .. limit.dimension
    elseif not limit.places then
      if limit.per then
        local window = window_at(limit.per, div(then_us, 1000))
        limit.account = limit.dimension .. '=' .. text(window)
        needs_until(limit.end_ms)
      end
      adjust(limit.account, units_of(limit), then_us)
      -- Even where nothing is charged: the settlement will need its pace or window.
      changed[limit.dimension] = true
      fields[#fields + 1] = limit.account
    end
  end
  local charge = { requests = requests, tokens = tokens, progress = 0, scope = scope,
    rest = table.concat(fields, ' '), refused = refused }
  take_places(charge, 1)
  return charge
end

local function decide()
  if mode == 'preview' then return is_refused and 0 or 1 end
  local charge, is_live = find_lease(lease_id)
  if is_live then
    refused = charge.refused
  elseif charge and mode == 'adopt' then
    read_accounts(charge)
    take_places(charge, 1)
  elseif charge or is_barred(lease_id) then
    return 2
  elseif is_refused and mode == 'admit' then
    return 0
  else
    if mode == 'adopt' then refused = {} end
    charge = charge_all()
  end
  hold(lease_id, charge, now_us + ttl_us)
  return 1
end

local code = decide()
local reply = { code, now_us }
for _, places in ipairs({ 'places', key_places }) do
  for i = 1, 4 do reply[#reply + 1] = meters[places][i] end
end
for _, limit in ipairs(limits) do add_state(reply, limit, refused[limit.dimension]) end
if mode ~= 'preview' then write(ttl_us) end
return reply
