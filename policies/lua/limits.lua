--[[
What admit.lua is asked, and the meters of the limits it has to pass. Part of admit.lua.
]]
local mode, lease_id, key_scope = ARGV[1], ARGV[2], ARGV[7]
local requests, tokens = tonumber(ARGV[3]), tonumber(ARGV[4])
local ttl_us, then_us = tonumber(ARGV[5]), now_us - tonumber(ARGV[6])
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
