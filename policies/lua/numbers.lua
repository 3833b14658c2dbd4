#!lua
--[[
Whole numbers larger than the 53 bits of a Lua number. Shared by the ledger's scripts.

Each call of a script makes its functions anew, and each local of the chunk that one of
them uses costs it again: half of an admission was that. So the shared parts have few
functions and keep no constants in locals: 2 ^ 52 is one number once it is compiled.
]]
-- floor(a * b / c) and the rest, exact while the quotient is below 2^53; a is at most
-- 60 bits, b and c at most 40.
local function muldiv(a, b, c)
  local product = a * b
  if product < 2 ^ 53 then
    local rest = product % c
    return (product - rest) / c, rest
  end
  -- By digits of 12 bits: one times 40 bits, and a rest of 40 bits moved by one, fit.
  local quotient, rest = 0, 0
  for place = 4, 0, -1 do
    local digit = math.floor(a / 4096 ^ place) % 4096
    local sum = rest * 4096 + digit * b
    local left = sum % c
    quotient, rest = quotient * 4096 + (sum - left) / c, left
  end
  return quotient, rest
end
