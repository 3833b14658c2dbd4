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

-- Ids barred no longer are forgotten here: a settlement brings at most one.
local MAX_FORGOTTEN = 10

reclaim()
local charge, is_live = find_lease(lease_id)
if charge then
  read_accounts(charge)
  correct(charge, requests, tokens, now_us)
  if is_live then take_places(charge, -1) end
  drop(lease_id)
end
write(ttl_us)

local old = redis.call('ZRANGEBYSCORE', settled_key, '-inf', text(now_us),
  'LIMIT', 0, MAX_FORGOTTEN)
if #old > 0 then redis.call('ZREM', settled_key, unpack(old)) end
if charge or not is_barred(lease_id) then
  redis.call('ZADD', settled_key, text(now_us + ttl_us), lease_id)
  redis.call('PEXPIREAT', settled_key, text(math.ceil((now_us + ttl_us) / 1000)))
end
return { charge and 1 or 0 }
