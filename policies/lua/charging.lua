--[[
Charging every limit but those in shadow that refused it. Part of admit.lua.
]]
local function charge_all()
  local accounts, key_accounts = {}, {}
  for at = 1, #limits, 9 do
    local dimension, kind, is_key = limits[at], limits[at + 1], limits[at + 3]
    if kind ~= 'leases' and not (is_key and key_refused or refused)[dimension] then
      local meter, window = (is_key and key or workspace)[dimension], 0
      if kind == 'quota' then
        needs_until(limits[at + 6])
        window = meter[1]
        if then_us < now_us then
          window = window_at(limits[at + 5], math.floor(then_us / 1000))
        end
      end
      adjust(meter, window, limits[at + 2] and tokens or requests, then_us)
      local of_scope = is_key and key_accounts or accounts
      of_scope[#of_scope + 1], of_scope[#of_scope + 2] = dimension, window
    end
  end
  local charge = { requests, tokens, 0, tokens, key_scope, accounts, key_accounts,
    refused, key_refused }
  take_places(charge, 1)
  return charge
end
