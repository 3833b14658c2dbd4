#!lua
--[[
Whole numbers larger than the 53 bits of a Lua number. Shared by the ledger's scripts.
]]
local MAX_EXACT = 9007199254740992 -- 2^53
local DIGIT = 4096 -- 12 bits: a digit times 40 bits, and a rest of 40 bits moved by one

-- floor(a * b / c) and the rest, exact while the quotient is below 2^53; a is at most
-- 60 bits, b and c at most 40.
local function muldiv(a, b, c)
  local product = a * b
  if product < MAX_EXACT then
    local rest = product % c
    return (product - rest) / c, rest
  end
  local quotient, rest = 0, 0
  for place = 4, 0, -1 do
    local digit = math.floor(a / DIGIT ^ place) % DIGIT
    local sum = rest * DIGIT + digit * b
    local left = sum % c
    quotient, rest = quotient * DIGIT + (sum - left) / c, left
  end
  return quotient, rest
end

-- Numbers as Redis keeps them: `..` and tostring() would round to 14 digits.
local function text(number)
  return string.format('%d', number)
end
