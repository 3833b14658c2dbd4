--[[
Reclaiming what was abandoned, and finding a lease. Shared by the ledger's scripts.
]]
-- What this call has found to be over, or nil. By lease id: charges of what is abandoned,
-- until when each is kept, and what is forgotten; and how many were held until now.
local ended
local end_lease

-- There seldom is one: so the function is made here, and counting takes a third of the
-- time that listing does.
if redis.call('ZCOUNT', leases_key, -now_us, now_us) > 0 then
  ended = { abandoned = {}, until_us = {}, forgotten = {}, held = 0 }

  -- What has ended, or whose owner did not come back in time. A lease that nobody
  -- renewed settles as of the instant it ended, at its last progress.
  function end_lease(lease_id, score)
    -- For an hour an owner that was taken for dead may correct its charge, as in
    -- memory_ledger.py.
    local charge, until_us = score > 0 and charge_of(lease_id), score + 3600000000
    if charge then
      ended.held = ended.held + 1
      local tokens = charge[3] > 0 and charge[3] or charge[2]
      correct(charge, charge[1], tokens, score)
      take_places(charge, -1)
      charge[4] = tokens
    end
    if charge and until_us > now_us then
      ended.abandoned[lease_id], ended.until_us[lease_id] = charge, until_us
    else
      ended.forgotten[lease_id] = true
    end
  end

  -- At most 200 at once: 4 ms of a single-threaded server. What is left waits for the
  -- next call; until then its places count as taken.
  local due = redis.call('ZRANGEBYSCORE', leases_key, -now_us, now_us, 'WITHSCORES',
    'LIMIT', 0, 200)
  for i = 1, #due, 2 do end_lease(due[i], tonumber(due[i + 1])) end
end

-- A lease's charge if it is held or abandoned; whether it is held; whether it is barred.
local function find_lease(lease_id)
  local score = redis.call('ZSCORE', leases_key, lease_id)
  if not score then return nil, false, false end
  score = tonumber(score)
  if score > 2 ^ 52 then return nil, false, score - 2 ^ 52 > now_us end
  if math.abs(score) > now_us then return charge_of(lease_id), score > 0, score < 0 end
  if not (ended.abandoned[lease_id] or ended.forgotten[lease_id]) then
    end_lease(lease_id, score) -- One that was beyond the 200.
  end
  return ended.abandoned[lease_id], false, ended.abandoned[lease_id] ~= nil
end
