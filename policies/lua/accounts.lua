--[[
Charging and refunding what usage.lua has read. Shared by the ledger's scripts.

An account is a dimension, and of a quota the window it was charged to: "t@day=20781".
]]
local PERIOD_US = { second = 1000000, minute = 60000000, hour = 3600000000,
  day = 86400000000 }

local function charge_rate(rate, period_us, units, at_us)
  local cost_us, cost_rest = muldiv(units, period_us, rate[3])
  local debt_us, rest = debt_at(rate, at_us)
  rest = rest + cost_rest
  debt_us, rest = debt_us + cost_us + div(rest, rate[3]), rest % rate[3]
  if debt_us >= MAX_DEBT_US then debt_us, rest = MAX_DEBT_US, 0 end
  rate[1], rate[2] = at_us + debt_us, rest
  needs_until(rate[1] / 1000 + 1)
end

local function refund_rate(rate, period_us, units, at_us)
  local back_us, back_rest = muldiv(units, period_us, rate[3])
  local debt_us, rest = debt_at(rate, at_us)
  if rest < back_rest then debt_us, rest = debt_us - 1, rest + rate[3] end
  debt_us, rest = debt_us - back_us, rest - back_rest
  if debt_us < 0 then debt_us, rest = 0, 0 end
  rate[1], rate[2] = at_us + debt_us, rest
end

-- Tops an account up by so many units, or refunds where they are negative.
local function adjust(account, units, at_us)
  if units == 0 then return end
  local dimension, window = string.match(account, '^([^=]+)=?(.*)$')
  local meter = meters[dimension]
  if window ~= '' then
    -- Once its window has ended, nobody looks at it any more.
    if meter[1] ~= tonumber(window) then return end
    meter[2] = math.min(math.max(0, meter[2] + units), MAX_COUNTED)
  else
    local period_us = PERIOD_US[string.match(dimension, '/(%a+)')]
    local change = units > 0 and charge_rate or refund_rate
    change(meter, period_us, math.abs(units), at_us)
  end
  changed[dimension] = true
end

-- Puts leases into places, or with the sign -1 takes them out.
local function take_place(places, is_beyond, requests, tokens, sign)
  local meter = meters[places]
  meter[1] = meter[1] + sign
  if is_beyond then meter[2] = meter[2] + sign end
  meter[3], meter[4] = meter[3] + sign * requests, meter[4] + sign * tokens
  changed[places] = true
end
