--[[
Keep a lease alive and note the tokens used so far; what is above the reservation is
charged at once.

KEYS     as of admit.lua

ARGV[1]  lease_id
ARGV[2]  tokens    used so far; never lowers what was noted
ARGV[3]  ttl_us

Reply    {renewed 0|1, leases this call found abandoned}; 0 is a lease that is settled, abandoned or unknown

A second run changes nothing but the expiry.
]]
local lease_id, tokens, ttl_us = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local written_id, packed_charge
local score, is_refunded, past = now_us + ttl_us, false, nil

local charge, is_held = find_lease(lease_id)
if is_held then
  charge[3] = math.max(charge[3], tokens)
  if tokens > charge[4] then
    correct(charge, charge[1], tokens, now_us)
    charge[4] = tokens
  end
  written_id, packed_charge = lease_id, cmsgpack.pack(charge)
end
local reply = { is_held and 1 or 0, ended and ended.held or 0 }
