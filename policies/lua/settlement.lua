--[[
Settling a charge, reclaiming what was abandoned, and writing it all. Shared by the
ledger's scripts; the last of the shared parts.
]]
local function correct(charge, requests, tokens, at_us)
  local more_requests = requests - charge.requests
  local more_tokens = tokens - (charge.charged or charge.tokens)
  for _, account in ipairs(charge.accounts) do
    local is_tokens = string.sub(account, 1, 1) == 't'
    adjust(account, is_tokens and more_tokens or more_requests, at_us)
  end
end

-- Takes the lease's places, or with the sign -1 gives them back.
local function take_places(charge, sign)
  take_place('places', charge.refused['leases'], charge.requests, charge.tokens, sign)
  if charge.scope ~= '-' then
    take_place('places#' .. charge.scope, charge.refused['leases#' .. charge.scope],
      charge.requests, charge.tokens, sign)
  end
end

-- Settles leases nobody renewed, as of the instant each ended, at their last progress,
-- and forgets those whose owner did not come back.
local function reclaim()
  local due = redis.call('ZRANGEBYSCORE', leases_key, text(-now_us), text(now_us),
    'WITHSCORES', 'LIMIT', 0, MAX_RECLAIMED)
  for i = 1, #due, 2 do
    local lease_id, ended_us = due[i], tonumber(due[i + 1])
    if ended_us > 0 then
      local charge = parse_charge(redis.call('HGET', charges_key, lease_id))
      local tokens = charge.progress > 0 and charge.progress or charge.tokens
      read_accounts(charge)
      correct(charge, charge.requests, tokens, ended_us)
      take_places(charge, -1)
      charge.charged, charge.kept_until_us = tokens, ended_us + KEPT_US
      if charge.kept_until_us > now_us then abandoned[lease_id] = charge end
    end
    if not abandoned[lease_id] then forgotten[#forgotten + 1] = lease_id end
  end
end

-- A lease's charge if it is held or abandoned; whether it is held.
local function find_lease(lease_id)
  if abandoned[lease_id] then return abandoned[lease_id], false end
  local score = tonumber(redis.call('ZSCORE', leases_key, lease_id) or 0)
  -- Also what reclaim has just found, and is not kept.
  if math.abs(score) <= now_us then return nil, false end
  return parse_charge(redis.call('HGET', charges_key, lease_id)), score > 0
end

local function is_barred(lease_id)
  return tonumber(redis.call('ZSCORE', settled_key, lease_id) or 0) > now_us
end

local held_id

-- Holds a lease until that instant, even one that has just been forgotten.
local function hold(lease_id, charge, until_us)
  held_id, abandoned[lease_id] = lease_id, nil
  changed['places'] = true -- so that the keys live long enough
  redis.call('ZADD', leases_key, text(until_us), lease_id)
  redis.call('HSET', charges_key, lease_id, charge_text(charge))
end

local function drop(lease_id)
  abandoned[lease_id] = nil
  redis.call('ZREM', leases_key, lease_id)
  redis.call('HDEL', charges_key, lease_id)
end

local function write_usage()
  local fields = { 'until', text(until_ms) }
  for dimension in pairs(changed) do
    local meter = meters[dimension]
    local size = string.sub(dimension, 1, 6) == 'places' and 4
      or string.find(dimension, '/', 1, true) and 3 or 2
    local figures = {}
    for i = 1, size do figures[i] = text(meter[i]) end
    fields[#fields + 1], fields[#fields + 2] = dimension, table.concat(figures, ' ')
  end
  redis.call('HSET', usage_key, unpack(fields))
end

-- Writes what has changed. All three keys live equally long: as long as anything used
-- still counts, and as long as an owner may come back to a lease taken now.
local function write(ttl_us)
  for _, lease_id in ipairs(forgotten) do
    if lease_id ~= held_id then drop(lease_id) end
  end
  for lease_id, charge in pairs(abandoned) do
    redis.call('ZADD', leases_key, text(-charge.kept_until_us), lease_id)
    redis.call('HSET', charges_key, lease_id, charge_text(charge))
  end
  if next(changed) == nil then return end
  write_usage()
  local at_ms = math.max(until_ms, math.ceil((now_us + ttl_us + KEPT_US) / 1000))
  if redis.call('PEXPIREAT', charges_key, text(at_ms)) == 1 then
    redis.call('PEXPIREAT', leases_key, text(at_ms))
  else
    -- Nothing is held and nobody may come back: only what is used counts.
    at_ms = until_ms
  end
  redis.call('PEXPIREAT', usage_key, text(at_ms))
end
