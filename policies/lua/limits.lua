--[[
The limits of a plan and a key, as arguments: whether each has room, and its state.
Part of admit.lua.
]]
local FIRST, STEP = 8, 5
local limits = {}
for at = FIRST, #ARGV, STEP do
  limits[#limits + 1] = { dimension = ARGV[at], limit = tonumber(ARGV[at + 1]),
    capacity_us = tonumber(ARGV[at + 2]), capacity_rest = tonumber(ARGV[at + 3]),
    is_shadow = ARGV[at + 4] == '1', account = ARGV[at],
    places = string.match(ARGV[at], '^leases(.*)$') }
end

-- Brings a limit's meter to now: the window that runs, the pace of the plan in force.
local function follow_limit(limit)
  local meter = meters[limit.dimension]
  limit.per = string.match(limit.dimension, '@(%a+)')
  if limit.per then
    local window, end_ms = window_at(limit.per, div(now_us, 1000))
    if meter[1] ~= window then meter[1], meter[2] = window, 0 end
    limit.account, limit.end_ms = limit.dimension .. '=' .. text(window), end_ms
  else
    follow(limit.dimension, limit.limit)
  end
end

local function rate_has_room(limit, units)
  local meter = meters[limit.dimension]
  local period_us = PERIOD_US[string.match(limit.dimension, '/(%a+)')]
  local us, rest = muldiv(units, period_us, limit.limit)
  local debt_us, debt_rest = debt_at(meter, now_us)
  us, rest = us + debt_us, rest + debt_rest
  us, rest = us + div(rest, limit.limit), rest % limit.limit
  return us < limit.capacity_us
    or (us == limit.capacity_us and rest <= limit.capacity_rest)
end

local function has_room(limit, units)
  if limit.places then
    local places = meters['places' .. limit.places]
    return places[1] - (limit.is_shadow and places[2] or 0) < limit.limit
  end
  -- Whoever asks nothing of a limit is not refused by it, even overdrawn.
  if units == 0 then return true end
  if limit.per then return meters[limit.dimension][2] + units <= limit.limit end
  return rate_has_room(limit, units)
end

-- What the caller words its answer from: the state after the decision.
local function add_state(reply, limit, is_refused)
  local a, b = 0, 0
  if limit.per then
    a = meters[limit.dimension][2]
  elseif not limit.places then
    a, b = debt_at(meters[limit.dimension], now_us)
  end
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = a, b, is_refused and 1 or 0
end
