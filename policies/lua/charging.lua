--[[
Charging every limit but those in shadow that refused it. Part of admit.lua.
]]
local packed_charge = charge and cmsgpack.pack(charge)
if is_charged then
  -- Long enough for a plan with four meters: to let it grow takes twice as long.
  local accounts, size = { nil, nil, nil, nil, nil, nil, nil, nil }, 0
  local key_accounts, key_size = {}, 0
  for at = 1, #limits, 9 do
    local dimension, kind, is_key = limits[at], limits[at + 1], limits[at + 3]
    if kind ~= 'leases' and not (is_key and key_refused or refused)[dimension] then
      local meter, window = (is_key and key or workspace)[dimension], 0
      local units = limits[at + 2] and tokens or requests
      if kind == 'quota' then
        needs_until(limits[at + 6])
        window = meter[1]
        if then_us < now_us then
          window = window_at(limits[at + 5], math.floor(then_us / 1000))
        end
        adjust(meter, window, units, then_us)
      elseif then_us < now_us then
        adjust(meter, 0, units, then_us)
      elseif units > 0 then
        set_debt(meter, now_us, limits[at + 6], limits[at + 7])
      end
      if is_key then
        key_accounts[key_size + 1], key_accounts[key_size + 2] = dimension, window
        key_size = key_size + 2
      else
        accounts[size + 1], accounts[size + 2] = dimension, window
        size = size + 2
      end
    end
  end
  if ARGV[9] then refused.passing, key_refused.passing = true, true end
  take_place('-', refused, requests, tokens, 1)
  if key then take_place(key_scope, key_refused, requests, tokens, 1) end
  -- An array of nine, packed without a table for it and mostly without those of the key
  -- and the refusals, which are empty arrays then: that takes two thirds of the time.
  packed_charge = '\153'
    .. cmsgpack.pack(requests, tokens, 0, tokens, key_scope, accounts)
    .. (key and cmsgpack.pack(key_accounts) or '\144')
    .. (next(refused) and cmsgpack.pack(refused) or '\144')
    .. (next(key_refused) and key and cmsgpack.pack(key_refused) or '\144')
end
