--[[
Replace a reservation by what was used and free the lease, once.

KEYS     as of admit.lua

ARGV[1]  lease_id
ARGV[2]  requests
ARGV[3]  tokens    really used
ARGV[4]  ttl_us    for which no admission of this id passes any more

Reply    {settled 0|1, leases this call found abandoned}; 0 is nothing left to settle

A second run finds no charge and changes nothing.
]]
local lease_id, requests, tokens = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local ttl_us = tonumber(ARGV[4])
local score, is_refunded = 2 ^ 52 + now_us + ttl_us, requests == 0 and tokens == 0
local packed_charge

-- Ids that are barred no longer. A settlement brings at most one, so it may take away
-- more than one, and only where some have gathered: that takes a third of the time.
local past
if redis.call('ZCOUNT', leases_key, 2 ^ 52, 2 ^ 52 + now_us) >= 10 then
  past = redis.call('ZRANGEBYSCORE', leases_key, 2 ^ 52, 2 ^ 52 + now_us,
    'LIMIT', 0, 20)
  for i = #past, 1, -1 do
    if past[i] == lease_id then table.remove(past, i) end
  end
end

local charge, is_held, is_barred = find_lease(lease_id)
if charge then
  correct(charge, requests, tokens, now_us)
  if is_held then take_places(charge, -1) end
end
local written_id = (charge or not is_barred) and lease_id
local reply = { charge and 1 or 0, ended and ended.held or 0 }
