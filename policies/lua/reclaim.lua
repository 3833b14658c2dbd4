--[[
Finding a lease, and reclaiming what was abandoned. Shared by the ledger's scripts.
]]
-- Settles a lease nobody renewed, as of the instant it ended, at its last progress.
local function abandon(lease_id, ended_us)
  local charge = charge_of(lease_id)
  reclaimed = reclaimed + 1
  local tokens = charge[PROGRESS] > 0 and charge[PROGRESS] or charge[TOKENS]
  correct(charge, charge[REQUESTS], tokens, ended_us)
  take_places(charge, -1)
  charge[CHARGED], charge.kept_until_us = tokens, ended_us + KEPT_US
  if charge.kept_until_us > now_us then abandoned[lease_id] = charge end
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
  return charge_of(lease_id), score > 0, score < 0
end
