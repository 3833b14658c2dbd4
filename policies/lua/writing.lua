--[[
Writing what has changed: usage, leases, and how long all of it lives. Shared by the
ledger's scripts; the last of the shared parts.
]]
-- Holds a lease until that instant, even one that has just been forgotten.
local function hold(lease_id, charge, until_us)
  held_id, abandoned[lease_id] = lease_id, nil
  redis.call('ZADD', leases_key, until_us, lease_id)
  redis.call('HSET', charges_key, lease_id, cmsgpack.pack(charge))
end

local function write_leases()
  for lease_id, charge in pairs(abandoned) do
    redis.call('ZADD', leases_key, -charge.kept_until_us, lease_id)
    charge.kept_until_us = nil
    redis.call('HSET', charges_key, lease_id, cmsgpack.pack(charge))
  end
  for _, lease_id in ipairs(forgotten) do
    if lease_id ~= held_id then
      redis.call('ZREM', leases_key, lease_id)
      redis.call('HDEL', charges_key, lease_id)
    end
  end
end

-- Writes what has changed. All keys live as long as anything used still counts, and as
-- long as an owner may come back to a lease taken now.
local function write(ttl_us)
  write_leases()
  local fields = {}
  for id in pairs(changed) do
    fields[#fields + 1], fields[#fields + 2] = id, cmsgpack.pack(scopes[id])
  end
  if #fields > 0 then redis.call('HSET', usage_key, unpack(fields)) end
  if is_scope_new and #fields > 0 then sweep() end
  if #fields == 0 and not held_id then return end
  local until_ms = scope_of(WORKSPACE).until_ms or 0
  local at_ms = math.max(until_ms, math.ceil((now_us + ttl_us + KEPT_US) / 1000))
  if redis.call('PEXPIREAT', charges_key, text(at_ms)) == 1 then
    redis.call('PEXPIREAT', leases_key, text(at_ms))
  else
    -- Nothing is held and nobody may come back: only what is used counts, and for a ttl
    -- that ids are settled.
    at_ms = until_ms
    redis.call('PEXPIREAT', leases_key, text(math.ceil((now_us + ttl_us) / 1000)))
  end
  redis.call('PEXPIREAT', usage_key, text(at_ms))
end
