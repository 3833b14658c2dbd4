--[[
Looking at every limit, and charging all of them. Part of admit.lua.
]]
-- Whether each limit in shadow refused it, by whether it is the key's and its dimension.
local refused, is_refused = { [false] = {}, [true] = {} }, false

local function look_at_limits()
  for _, limit in ipairs(limits) do
    follow_limit(limit, limit[IS_KEY] and key_scope or WORKSPACE)
    if not has_room(limit, limit[IS_TOKENS] and tokens or requests) then
      refused[limit[IS_KEY]][limit[DIMENSION]] = true
      is_refused = is_refused or not limit[IS_SHADOW]
    end
  end
end

local function charge_limit(limit, accounts)
  local units = limit[IS_TOKENS] and tokens or requests
  local window = limit[WINDOW]
  if limit[KIND] == 'quota' then
    needs_until(limit[END_MS])
    if then_us < now_us then window = window_at(limit[PERIOD], div(then_us, 1000)) end
  end
  adjust(limit[SCOPE_ID], limit[DIMENSION], window, units, then_us)
  accounts[#accounts + 1], accounts[#accounts + 2] = limit[DIMENSION], window
end

local function charge_all()
  local accounts = { [false] = {}, [true] = {} }
  for _, limit in ipairs(limits) do
    local is_key = limit[IS_KEY]
    if limit[KIND] ~= 'leases' and not refused[is_key][limit[DIMENSION]] then
      charge_limit(limit, accounts[is_key])
    end
  end
  local charge = { requests, tokens, 0, tokens, key_scope, accounts[false],
    accounts[true], refused[false], refused[true] }
  take_places(charge, 1)
  return charge
end
