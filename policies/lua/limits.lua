--[[
The limits of a plan and a key, as an argument: whether each has room, and its state.
Part of admit.lua.
]]
local limits = cmsgpack.unpack(ARGV[8])
local DIMENSION, KIND, IS_TOKENS, IS_KEY, LIMIT, PERIOD = 1, 2, 3, 4, 5, 6
local CAPACITY_US, CAPACITY_REST, IS_SHADOW = 7, 8, 9
-- Found out here: the scope's id, the meter, and of a quota its window and its end.
local SCOPE_ID, METER, WINDOW, END_MS = 10, 11, 12, 13
local MAX_STEP_MS = 60000

-- Brings a limit's meter to now: the window that runs, the pace of the plan in force.
local function follow_limit(limit, scope_id)
  local scope, dimension = scope_of(scope_id), limit[DIMENSION]
  local meter = scope[dimension]
  limit[SCOPE_ID], limit[WINDOW] = scope_id, 0
  if limit[KIND] == 'quota' then
    limit[WINDOW], limit[END_MS] = window_at(limit[PERIOD], div(now_us, 1000))
    meter = meter or { 0, 0 }
    -- A clock set back a little over the boundary does not open the old window again.
    if meter[1] == limit[WINDOW] + 1 and limit[END_MS] - now_us / 1000 < MAX_STEP_MS then
      limit[WINDOW] = meter[1]
    end
    if meter[1] ~= limit[WINDOW] then meter[1], meter[2] = limit[WINDOW], 0 end
  elseif limit[KIND] == 'rate' then
    meter = meter or { 0, 0, limit[LIMIT], limit[PERIOD] }
    if meter[3] ~= limit[LIMIT] then
      follow(meter, limit[LIMIT])
      -- From this decision on it refills at the new pace, even if it is a no.
      changed[scope_id] = true
    end
  else
    meter = scope.places
  end
  limit[METER] = meter
  if limit[KIND] ~= 'leases' then scope[dimension] = meter end
end

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

-- What the caller words its answer from: the state after the decision.
local function add_state(reply, limit, is_refused)
  local a, b = 0, 0
  if limit[KIND] == 'quota' then
    a = limit[METER][2]
  elseif limit[KIND] == 'rate' then
    a, b = debt_at(limit[METER], now_us)
  end
  local size = #reply
  reply[size + 1], reply[size + 2], reply[size + 3] = a, b, is_refused and 1 or 0
end
