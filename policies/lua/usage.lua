--[[
What a workspace has used: read once, changed here, written once. Shared by the
ledger's scripts.

The hash has a field for each scope, `-` for the workspace itself and else a key with
limits of its own, and its value is msgpack: by dimension, as dimensions.py names it,
  a rate       {tat_us, rest, limit, period_us}: its TAT is tat_us + rest/limit us
  a quota      {window, used}
  `places`     {held, beyond_shadow, requests, tokens, passing}: leases, what they
               reserved, and how many take no place, if any
and in the workspace's `until_ms`, from which on nothing of all this matters. What a
newer version of these scripts may have added is kept as it is.
]]
local usage_key, leases_key, charges_key = KEYS[1], KEYS[2], KEYS[3]

local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]

local packed = redis.call('HGET', usage_key, '-')
local workspace = packed and cmsgpack.unpack(packed) or { places = { 0, 0, 0, 0 } }
-- Until when this hash lives at least: while a lease is held, each call sees to that.
local lives_until_ms = packed and workspace.places[1] > 0 and workspace.until_ms or 0
-- What this call looked at, by id, and which of it changed. Whether there is a key among
-- it, and one that is new.
local scopes, changed = { ['-'] = workspace }, { ['-'] = false }
local has_keys, is_scope_new = false, false

local function scope_of(id)
  local scope = scopes[id]
  if not scope then
    local packed = redis.call('HGET', usage_key, id)
    scope = packed and cmsgpack.unpack(packed) or { places = { 0, 0, 0, 0 } }
    scopes[id], has_keys, is_scope_new = scope, true, is_scope_new or not packed
  end
  return scope
end

local function needs_until(at_ms)
  if at_ms > (workspace.until_ms or 0) then
    workspace.until_ms, changed['-'] = math.ceil(at_ms), true
  end
end
