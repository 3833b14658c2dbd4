--[[
Whether it is admitted, and is to be charged. Part of admit.lua.
]]
local code, charge, is_charged = 1, nil, false
if mode == 'preview' then
  code = is_refused and 0 or 1
else
  local is_held, is_barred
  charge, is_held, is_barred = find_lease(lease_id)
  if is_held then
    refused, key_refused = charge[8], charge[9]
  elseif charge and mode == 'adopt' then
    take_places(charge, 1)
  elseif is_barred then
    code, charge = 2, nil
  elseif is_refused and mode == 'admit' then
    code = 0
  else
    is_charged = true
    if mode == 'adopt' then refused, key_refused = {}, {} end
  end
end
