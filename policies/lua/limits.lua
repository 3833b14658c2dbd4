--[[
What admit.lua is asked, and a look at every limit it has to pass: the meter is brought
to now, to the window that runs and the pace of the plan in force. Part of admit.lua.
]]
local mode, lease_id, key_scope = ARGV[1], ARGV[2], ARGV[7]
local requests, tokens = tonumber(ARGV[3]), tonumber(ARGV[4])
local ttl_us, then_us = tonumber(ARGV[5]), now_us - tonumber(ARGV[6])
-- Flat, nine for each limit: tables in it would take five times as long to unpack. Of a
-- quota the seventh becomes the end of its window, in ms.
local limits = { cmsgpack.unpack(ARGV[8]) }
-- Of the workspace and of the key: which limits in shadow refused it, by dimension.
local refused, key_refused, is_refused = {}, {}, false

reclaim()
local key = key_scope ~= '' and scope_of(key_scope)
local now_ms = math.floor(now_us / 1000)
for at = 1, #limits, 9 do
  local dimension, kind, is_key = limits[at], limits[at + 1], limits[at + 3]
  local limit, period, is_shadow = limits[at + 4], limits[at + 5], limits[at + 8]
  local units = limits[at + 2] and tokens or requests
  local scope, scope_id = workspace, '-'
  if is_key then scope, scope_id = key, key_scope end
  local meter, has_room = scope[dimension], false
  if kind == 'rate' then
    if not meter then
      meter = { 0, 0, limit, period }
      scope[dimension] = meter
    elseif meter[3] ~= limit then
      follow(meter, limit)
      -- From this decision on it refills at the new pace, even if it is a no.
      changed[scope_id] = true
    end
    has_room = rate_has_room(meter, units, period, limits[at + 6], limits[at + 7])
  elseif kind == 'quota' then
    local window, end_ms = window_at(period, now_ms)
    limits[at + 6] = end_ms
    if not meter then
      scope[dimension] = { window, 0 }
    elseif meter[1] ~= window
      -- A clock set back up to a minute over the boundary opens no old window again.
      and not (meter[1] == window + 1 and end_ms - now_us / 1000 < 60000) then
      meter[1], meter[2] = window, 0
    end
    has_room = units == 0 or scope[dimension][2] + units <= limit
  else
    has_room = has_place(scope.places, limit, is_shadow, scope_id)
  end
  if not has_room then
    local refusals = is_key and key_refused or refused
    refusals[dimension], is_refused = true, is_refused or not is_shadow
  end
end
