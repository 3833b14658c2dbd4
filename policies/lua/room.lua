--[[
Whether a limit has room for what is asked of it. Part of admit.lua.
]]
local function has_place(limit)
  local places = limit[METER]
  return places[1] - (limit[IS_SHADOW] and places[2] or 0) < limit[LIMIT]
end

-- Sees, before it refuses, whether the leases are there that the places speak of: an
-- operator, or an eviction, may have deleted them alone.
local function recount(limit)
  local held = redis.call('ZCOUNT', leases_key, 1, SETTLED) - reclaimed
  local places = limit[METER]
  if places[1] <= held then return end
  places[1], places[2] = held, math.min(places[2], held)
  changed[limit[SCOPE_ID]] = true
end

local function has_room(limit, units)
  local meter = limit[METER]
  if limit[KIND] == 'leases' then
    if not has_place(limit) then recount(limit) end
    return has_place(limit)
  end
  -- Whoever asks nothing of a limit is not refused by it, even overdrawn.
  if units == 0 then return true end
  if limit[KIND] == 'quota' then return meter[2] + units <= limit[LIMIT] end
  local us, rest = muldiv(units, limit[PERIOD], limit[LIMIT])
  local debt_us, debt_rest = debt_at(meter, now_us)
  us, rest = us + debt_us, rest + debt_rest
  us, rest = us + div(rest, limit[LIMIT]), rest % limit[LIMIT]
  return us < limit[CAPACITY_US]
    or (us == limit[CAPACITY_US] and rest <= limit[CAPACITY_REST])
end
