--[[
Leases: who holds them and what they were charged. Shared by the ledger's scripts.

A lease id's score in the zset says what it is:
  below 0     abandoned; -score is until when its owner may still correct its charge
  up to 2^52  held; when it ends unless it is renewed, in epoch us
  above       settled; 2^52 less is until when no admission of the id passes

A charge, the value of a lease id in the hash, is msgpack: {requests, tokens, progress,
charged, scope, accounts, key_accounts, refused, key_refused} with the reservation; the
last progress; the tokens its accounts stand at; the key's scope or ''; accounts as
{dimension, window, dimension, window, ...}; and refused[dimension] = true for a limit in
shadow that would have refused it.
]]
local leases_key, charges_key = KEYS[2], KEYS[3]
local SETTLED = 4503599627370496 -- 2^52
-- How long an owner that was taken for dead may still correct its charge, as in
-- memory_ledger.py.
local KEPT_US = 3600000000
-- Reclaimed at once: 4 ms of a single-threaded server. What is left waits for the next
-- call; until then its places count as taken.
local MAX_RECLAIMED = 200

local REQUESTS, TOKENS, PROGRESS, CHARGED, SCOPE = 1, 2, 3, 4, 5
local ACCOUNTS, REFUSED = 6, 8 -- the workspace's; the key's stand one further

-- What this call has found to be abandoned: lease id -> charge. And what is forgotten,
-- what it has looked at, and how many of it were held until now.
local abandoned, forgotten, seen, reclaimed = {}, {}, {}, 0
-- The one lease that this call holds, or settles: its id, score, and charge or nil.
local held_id, held_score, held_charge

-- A lease whose charge was deleted alone keeps its place, and its reservation stands.
local function charge_of(lease_id)
  local value = redis.call('HGET', charges_key, lease_id)
  if value then return cmsgpack.unpack(value) end
  return { 0, 0, 0, 0, '', {}, {}, {}, {} }
end

local function correct_accounts(scope_id, accounts, more_requests, more_tokens, at_us)
  for i = 1, #accounts, 2 do
    local is_tokens = string.byte(accounts[i]) == 116 -- 't'
    adjust(scope_id, accounts[i], accounts[i + 1],
      is_tokens and more_tokens or more_requests, at_us)
  end
end

-- Replaces what the accounts were charged.
local function correct(charge, requests, tokens, at_us)
  local more_requests = requests - charge[REQUESTS]
  local more_tokens = tokens - charge[CHARGED]
  correct_accounts(WORKSPACE, charge[ACCOUNTS], more_requests, more_tokens, at_us)
  if charge[SCOPE] ~= '' then
    correct_accounts(charge[SCOPE], charge[ACCOUNTS + 1], more_requests, more_tokens,
      at_us)
  end
end

-- Takes the lease's places, or with the sign -1 gives them back.
local function take_places(charge, sign)
  local requests, tokens = charge[REQUESTS], charge[TOKENS]
  take_place(WORKSPACE, charge[REFUSED].leases, requests, tokens, sign)
  if charge[SCOPE] ~= '' then
    take_place(charge[SCOPE], charge[REFUSED + 1].leases, requests, tokens, sign)
  end
end
