--[[
Reclaiming what was abandoned, finding a lease, and writing what has changed. Shared by
the ledger's scripts; the last of the shared parts.
]]
-- Settles a lease nobody renewed, as of the instant it ended, at its last progress.
local function abandon(lease_id, ended_us)
  local value = redis.call('HGET', charges_key, lease_id)
  local charge = value and cmsgpack.unpack(value)
  reclaimed = reclaimed + 1
  if charge then
    local tokens = charge[PROGRESS] > 0 and charge[PROGRESS] or charge[TOKENS]
    correct(charge, charge[REQUESTS], tokens, ended_us)
    take_places(charge, -1)
    charge[CHARGED], charge.kept_until_us = tokens, ended_us + KEPT_US
    if charge.kept_until_us > now_us then abandoned[lease_id] = charge end
  end
end

-- What has ended, or whose owner did not come back in time.
local function end_lease(lease_id, score)
  seen[lease_id] = true
  if score > 0 then abandon(lease_id, score) end
  if not abandoned[lease_id] then forgotten[#forgotten + 1] = lease_id end
end

local function reclaim()
  local due = redis.call('ZRANGEBYSCORE', leases_key, -now_us, now_us, 'WITHSCORES',
    'LIMIT', 0, MAX_RECLAIMED)
  for i = 1, #due, 2 do end_lease(due[i], tonumber(due[i + 1])) end
end

-- A lease's charge if it is held or abandoned; whether it is held; whether it is barred.
local function find_lease(lease_id)
  local score = tonumber(redis.call('ZSCORE', leases_key, lease_id) or 0)
  if score > SETTLED then return nil, false, score - SETTLED > now_us end
  if score ~= 0 and math.abs(score) <= now_us and not seen[lease_id] then
    -- One that reclaim did not come to.
    end_lease(lease_id, score)
  end
  if abandoned[lease_id] then return abandoned[lease_id], false, true end
  if math.abs(score) <= now_us then return nil, false, false end
  local value = redis.call('HGET', charges_key, lease_id)
  return value and cmsgpack.unpack(value), score > 0, score < 0
end

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
