--[[
Writing what has changed: leases, usage, and how long all of it lives. Shared by the
ledger's scripts; the last of the shared parts, and the only one that writes.
]]
local function write_ended(but_id)
  for lease_id, charge in pairs(ended.abandoned) do
    if lease_id ~= but_id then
      redis.call('HSET', charges_key, lease_id, cmsgpack.pack(charge))
      redis.call('ZADD', leases_key, -ended.until_us[lease_id], lease_id)
    end
  end
  for lease_id in pairs(ended.forgotten) do
    if lease_id ~= but_id then
      redis.call('HDEL', charges_key, lease_id)
      redis.call('ZREM', leases_key, lease_id)
    end
  end
end

-- Notes, if there is one, that a lease is held until that score or with no charge
-- settled. Where all was refunded, it is worth looking for what is left.
local function write(ttl_us, lease_id, charge, score, is_refunded)
  local fields = {}
  for id, is_changed in pairs(changed) do
    if is_changed then
      fields[#fields + 1], fields[#fields + 2] = id, cmsgpack.pack(scopes[id])
    end
  end
  local idle = is_scope_new and fields[1] and draw_idle() or {}
  -- First the charges: theirs is the one key whose type nothing has read yet.
  if ended then write_ended(lease_id) end
  if charge then
    redis.call('HSET', charges_key, lease_id, charge)
  elseif lease_id then
    redis.call('HDEL', charges_key, lease_id)
  end
  if lease_id then redis.call('ZADD', leases_key, score, lease_id) end
  if fields[1] then redis.call('HSET', usage_key, unpack(fields)) end
  if idle[1] then redis.call('HDEL', usage_key, unpack(idle)) end
  if not lease_id and not fields[1] then return end

  -- All keys live as long as anything used still counts, and as long as an owner may
  -- come back within an hour to a lease taken now.
  local until_ms = workspace.until_ms or 0
  local at_ms = math.max(until_ms, math.ceil((now_us + ttl_us) / 1000) + 3600000)
  -- Written out, because Lua would send a large number as 1.7e+12.
  local at = string.format('%d', at_ms)
  if redis.call('PEXPIREAT', charges_key, at) == 1 then
    redis.call('PEXPIREAT', leases_key, at)
  else
    -- Nothing is held and nobody may come back: only what is used counts, and for a ttl
    -- that ids are settled. Of what was refunded nothing is left. Not every server's
    -- user may look; then all of it is kept for as long as before.
    if is_refunded and redis.pcall('HLEN', usage_key) == 1 then
      until_ms = counts_until_ms(workspace) or until_ms
    end
    redis.call('PEXPIREAT', leases_key,
      string.format('%d', math.ceil((now_us + ttl_us) / 1000)))
    at = string.format('%d', until_ms)
  end
  redis.call('PEXPIREAT', usage_key, at)
end
