--[[
Writing what has changed: leases, usage, and how long all of it lives. Shared by the
ledger's scripts; the last of the shared parts, and the only one that writes.
]]
-- Whether this call gave back all that was charged: worth looking for what is left.
local is_refunded = false

-- Notes that a lease is held, or with no charge settled, until that score.
local function hold(lease_id, charge, score)
  held_id, held_charge, held_score, abandoned[lease_id] = lease_id, charge, score, nil
end

-- First the charges: theirs is the one key whose type nothing has read yet.
local function write_charges()
  for lease_id, charge in pairs(abandoned) do
    local kept_until_us = charge.kept_until_us
    charge.kept_until_us = nil
    redis.call('HSET', charges_key, lease_id, cmsgpack.pack(charge))
    redis.call('ZADD', leases_key, -kept_until_us, lease_id)
  end
  if held_charge then
    redis.call('HSET', charges_key, held_id, cmsgpack.pack(held_charge))
  elseif held_id then
    redis.call('HDEL', charges_key, held_id)
  end
end

local function write_leases()
  for _, lease_id in ipairs(forgotten) do
    if lease_id ~= held_id then
      redis.call('HDEL', charges_key, lease_id)
      redis.call('ZREM', leases_key, lease_id)
    end
  end
  if held_id then redis.call('ZADD', leases_key, held_score, held_id) end
end

-- All keys live as long as anything used still counts, and as long as an owner may come
-- back to a lease taken now.
local function expire(ttl_us)
  local until_ms = scope_of(WORKSPACE).until_ms or 0
  local at_ms = math.max(until_ms, math.ceil((now_us + ttl_us + KEPT_US) / 1000))
  if redis.call('PEXPIREAT', charges_key, text(at_ms)) == 1 then
    redis.call('PEXPIREAT', leases_key, text(at_ms))
  else
    -- Nothing is held and nobody may come back: only what is used counts, and for a ttl
    -- that ids are settled. Of what was refunded nothing is left.
    at_ms = until_ms
    -- Not every server's user may; then all of it is kept for as long as before.
    if is_refunded and redis.pcall('HLEN', usage_key) == 1 then
      at_ms = counts_until_ms(scope_of(WORKSPACE)) or until_ms
    end
    redis.call('PEXPIREAT', leases_key, text(math.ceil((now_us + ttl_us) / 1000)))
  end
  redis.call('PEXPIREAT', usage_key, text(at_ms))
end

local function write(ttl_us)
  -- Read before anything is written, should nothing have looked at it yet.
  scope_of(WORKSPACE)
  local fields = {}
  for id in pairs(changed) do
    fields[#fields + 1], fields[#fields + 2] = id, cmsgpack.pack(scopes[id])
  end
  local idle = is_scope_new and #fields > 0 and draw_idle() or {}
  write_charges()
  write_leases()
  if #fields > 0 then redis.call('HSET', usage_key, unpack(fields)) end
  if #idle > 0 then redis.call('HDEL', usage_key, unpack(idle)) end
  if #fields > 0 or held_id then expire(ttl_us) end
end
