--[[
Writing what has changed: leases, usage, and how long all of it lives. Shared by the
ledger's scripts, the end of each, and the only part that writes. It takes from before:
  ttl_us
  written_id     the lease that is held or settled, if any
  packed_charge  of what is held, else it is settled
  score          until when
  is_refunded    whether all was: then it is worth looking for what is left
  past           settled ids to be forgotten, if any
  reply
]]
-- First the charges: theirs is the one key whose type nothing has read yet.
if ended then
  for lease_id, charge in pairs(ended.abandoned) do
    if lease_id ~= written_id then
      redis.call('HSET', charges_key, lease_id, cmsgpack.pack(charge))
      redis.call('ZADD', leases_key, -ended.until_us[lease_id], lease_id)
    end
  end
  for lease_id in pairs(ended.forgotten) do
    if lease_id ~= written_id then
      redis.call('HDEL', charges_key, lease_id)
      redis.call('ZREM', leases_key, lease_id)
    end
  end
end
if packed_charge then
  redis.call('HSET', charges_key, written_id, packed_charge)
elseif written_id then
  redis.call('HDEL', charges_key, written_id)
end
if written_id then redis.call('ZADD', leases_key, score, written_id) end
if fields then redis.call('HSET', usage_key, unpack(fields)) end
if idle then redis.call('HDEL', usage_key, unpack(idle)) end

-- All keys live as long as anything used still counts, and as long as an owner may come
-- back within an hour to a lease taken now.
if written_id or fields then
  local until_ms = workspace.until_ms or 0
  local at_ms = math.max(until_ms, math.ceil((now_us + ttl_us) / 1000) + 3600000)
  -- Written out, because Lua would send a large number as 1.7e+12.
  local at = string.format('%d', at_ms)
  if redis.call('PEXPIREAT', charges_key, at) == 1 then
    redis.call('PEXPIREAT', leases_key, at)
    if at_ms > lives_until_ms then redis.call('PEXPIREAT', usage_key, at) end
  else
    -- Nothing is held and nobody may come back: only what is used counts, and for a ttl
    -- that ids are settled. Of what was refunded nothing is left. Not every server's
    -- user may look; then all of it is kept for as long as before.
    if is_refunded and redis.pcall('HLEN', usage_key) == 1 then
      until_ms = counts_until_ms(workspace) or until_ms
    end
    at = string.format('%d', math.ceil((now_us + ttl_us) / 1000))
    redis.call('PEXPIREAT', leases_key, at)
    redis.call('PEXPIREAT', usage_key, string.format('%d', until_ms))
  end
end
if past and past[1] then redis.call('ZREM', leases_key, unpack(past)) end
return reply
