--[[
What seldom happens while admit.lua looks at the limits. Part of it.
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

-- Sees, before a limit refuses, whether the leases are there that the places speak of: an
-- operator, or an eviction, may have deleted them alone.
local function recount(scope_id)
  local held = redis.call('ZCOUNT', leases_key, 1, 2 ^ 52) - (ended and ended.held or 0)
  local places = scope_of(scope_id).places
  if places[1] <= held then return false end
  places[1], places[2], changed[scope_id] = held, math.min(places[2], held), true
  return true
end
