--[[
What a workspace has used: read once, changed here, written once. Shared by the
ledger's scripts.

The hash has a field for each scope, `-` for the workspace itself and else a key with
limits of its own, and its value is msgpack: by dimension, as dimensions.py names it,
  a rate       {tat_us, rest, limit, period_us}: its TAT is tat_us + rest/limit us
  a quota      {window, used}
  `places`     {held, beyond_shadow, requests, tokens}: leases, and what they reserved
and in the workspace's `until_ms`, from which on nothing of all this matters. What a
newer version of these scripts may have added is kept as it is.
]]
local usage_key = KEYS[1]
local WORKSPACE = '-'
local MAX_DEBT_US = 2251799813685248 -- 2^51: gcra.py
local MAX_COUNTED = 4503599627370496 -- 2^52: meters.py

local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
-- What this call looked at, by id; which of it changed; whether one is a key's first.
local scopes, changed, is_scope_new = {}, {}, false

local function load_scope(id, value)
  is_scope_new = is_scope_new or (not value and id ~= WORKSPACE)
  local scope = value and cmsgpack.unpack(value) or { places = { 0, 0, 0, 0 } }
  scopes[id] = scope
  return scope
end

local function scope_of(id)
  return scopes[id] or load_scope(id, redis.call('HGET', usage_key, id))
end

local function needs_until(at_ms)
  local workspace = scope_of(WORKSPACE)
  if at_ms > (workspace.until_ms or 0) then
    workspace.until_ms = math.ceil(at_ms)
    changed[WORKSPACE] = true
  end
end

-- A rate's debt at an instant, in whole microseconds and a rest of 1/limit of them.
local function debt_at(rate, at_us)
  if rate[1] < at_us then return 0, 0 end
  return rate[1] - at_us, rate[2]
end

local function set_debt(rate, at_us, debt_us, rest)
  if debt_us >= MAX_DEBT_US then debt_us, rest = MAX_DEBT_US, 0 end
  rate[1], rate[2] = at_us + debt_us, rest
  needs_until(rate[1] / 1000 + 1)
end
