--[[
Leases: who holds them and what they were charged. Shared by the ledger's scripts.

A lease id's score in the zset says what it is:
  below 0     abandoned; -score is until when its owner may still correct its charge
  up to 2^52  held; when it ends unless it is renewed, in epoch us
  above       settled; 2^52 less is until when no admission of the id passes

A charge, the value of a lease id in the hash, is msgpack:
  1 requests, 2 tokens          the reservation
  3 progress, 4 charged         the last progress; the tokens its accounts stand at
  5 scope                       the key's, or ''
  6 accounts, 7 key_accounts    {dimension, window, dimension, window, ...}
  8 refused, 9 key_refused      [dimension] = true for a limit in shadow that would
                                have refused it; `passing` for a lease without a place
]]
-- A lease whose charge was deleted alone keeps its place, and its reservation stands.
local function charge_of(lease_id)
  local packed = redis.call('HGET', charges_key, lease_id)
  return packed and cmsgpack.unpack(packed) or { 0, 0, 0, 0, '', {}, {}, {}, {} }
end

-- Replaces what the accounts were charged.
local function correct(charge, requests, tokens, at_us)
  local more_requests, more_tokens = requests - charge[1], tokens - charge[4]
  for at = 6, 7 do
    local accounts, scope_id = charge[at], at == 6 and '-' or charge[5]
    for i = 1, #accounts, 2 do
      local dimension = accounts[i]
      local is_tokens = string.byte(dimension) == 116 -- 't'
      local units = is_tokens and more_tokens or more_requests
      local meter = units ~= 0 and scope_of(scope_id)[dimension]
      if meter then
        adjust(meter, accounts[i + 1], units, at_us)
        changed[scope_id] = true
      end
    end
  end
end

-- Takes the lease's places, or with the sign -1 gives them back.
local function take_places(charge, sign)
  take_place('-', charge[8], charge[1], charge[2], sign)
  if charge[5] ~= '' then
    take_place(charge[5], charge[9], charge[1], charge[2], sign)
  end
end
