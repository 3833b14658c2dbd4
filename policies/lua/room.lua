--[[
A look at every limit: its meter is brought to now, to the window that runs and to the
pace of the plan in force, and has room for what is asked or not. Part of admit.lua.
]]
for at = 1, #limits, 9 do
  local dimension, kind, is_key = limits[at], limits[at + 1], limits[at + 3]
  local limit, period, is_shadow = limits[at + 4], limits[at + 5], limits[at + 8]
  local units = limits[at + 2] and tokens or requests
  local scope = is_key and key or workspace
  -- Whoever asks nothing of a limit is not refused by it, even overdrawn.
  local meter, has_room = scope[dimension], units == 0
  if kind == 'rate' then
    if not meter then
      meter = { 0, 0, limit, period }
      scope[dimension] = meter
    elseif meter[3] ~= limit then
      follow(meter, limit)
      -- From this decision on it refills at the new pace, even if it is a no.
      changed[is_key and key_scope or '-'] = true
    end
    local us, ticks = muldiv(units, period, limit)
    if meter[1] >= now_us then us, ticks = us + (meter[1] - now_us), ticks + meter[2] end
    local rest = ticks % limit
    us = us + (ticks - rest) / limit
    has_room = has_room or us < limits[at + 6]
      or (us == limits[at + 6] and rest <= limits[at + 7])
    limits[at + 6], limits[at + 7] = us, rest
  elseif kind == 'quota' then
    local window, end_ms = window_at(period, (now_us - now_us % 1000) / 1000)
    if not meter then
      meter = { window, 0 }
      scope[dimension] = meter
    elseif meter[1] ~= window
      -- A clock set back up to a minute over the boundary opens no old window again.
      and not (meter[1] == window + 1 and end_ms - now_us / 1000 < 60000) then
      meter[1], meter[2] = window, 0
    end
    has_room = has_room or meter[2] + units <= limit
    limits[at + 6] = end_ms
  else
    local places = scope.places
    -- A limit in shadow has room beside the leases that it would have refused.
    has_room = places[1] - (is_shadow and places[2] or 0) < limit
    if not has_room and recount(is_key and key_scope or '-') then
      has_room = places[1] - (is_shadow and places[2] or 0) < limit
    end
  end
  if not has_room then
    local refusals = is_key and key_refused or refused
    refusals[dimension], is_refused = true, is_refused or not is_shadow
  end
end
