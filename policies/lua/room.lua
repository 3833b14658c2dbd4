--[[
Whether a limit has room for what is asked of it. Part of admit.lua.
]]
-- Counts on at another limit: the debt in units stays, and in ticks too (gcra.py).
local function follow(rate, limit)
  if rate[1] < now_us then
    rate[2], rate[3] = 0, limit
    return
  end
  local us, ticks = muldiv(rate[1] - now_us, rate[3], limit)
  rate[3] = limit
  set_debt(rate, now_us, us, ticks + rate[2])
end

local function rate_has_room(rate, units, period_us, capacity_us, capacity_rest)
  -- Whoever asks nothing of a limit is not refused by it, even overdrawn.
  if units == 0 then return true end
  local us, ticks = muldiv(units, period_us, rate[3])
  if rate[1] >= now_us then us, ticks = us + (rate[1] - now_us), ticks + rate[2] end
  local rest = ticks % rate[3]
  us = us + (ticks - rest) / rate[3]
  return us < capacity_us or (us == capacity_us and rest <= capacity_rest)
end

-- The leases that count: a limit in shadow has room beside those it would have refused.
local function taken(places, is_shadow)
  return places[1] - (is_shadow and places[2] or 0)
end

local function has_place(places, limit, is_shadow, scope_id)
  if taken(places, is_shadow) < limit then return true end
  -- Sees, before it refuses, whether the leases are there that the places speak of: an
  -- operator, or an eviction, may have deleted them alone.
  local held = redis.call('ZCOUNT', leases_key, 1, 2 ^ 52) - (ended and ended.held or 0)
  if places[1] > held then
    places[1], places[2] = held, math.min(places[2], held)
    changed[scope_id] = true
  end
  return taken(places, is_shadow) < limit
end
