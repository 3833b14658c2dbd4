--[[
Replace a reservation by what was used and free the lease, once.

KEYS     as of admit.lua

ARGV[1]  lease_id
ARGV[2]  requests
ARGV[3]  tokens    really used
ARGV[4]  ttl_us    for which no admission of this id passes any more

Reply    {settled 0|1}; 0 is nothing left to settle

A second run finds no charge and changes nothing.
]]
local lease_id, requests, tokens = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local ttl_us = tonumber(ARGV[4])

local MAX_FORGOTTEN = 20

reclaim()
-- Ids that are barred no longer: a settlement brings at most one.
local old = redis.call('ZRANGEBYSCORE', leases_key, SETTLED, SETTLED + now_us,
  'LIMIT', 0, MAX_FORGOTTEN)
if #old > 0 then redis.call('ZREM', leases_key, unpack(old)) end
local charge, is_held, is_barred = find_lease(lease_id)
if charge then
  correct(charge, requests, tokens, now_us)
  if is_held then take_places(charge, -1) end
  abandoned[lease_id] = nil
end
if charge or not is_barred then
  held_id = lease_id
  redis.call('HDEL', charges_key, lease_id)
  redis.call('ZADD', leases_key, SETTLED + now_us + ttl_us, lease_id)
end
write(ttl_us)
return { charge and 1 or 0 }
