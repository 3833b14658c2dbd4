--[[
Charging and refunding what usage.lua has read. Shared by the ledger's scripts.
]]
-- A debt at an instant: microseconds, and ticks of 1/limit of them.
local function set_debt(rate, at_us, debt_us, ticks)
  local rest = ticks % rate[3]
  debt_us = debt_us + (ticks - rest) / rate[3]
  if debt_us >= 2 ^ 51 then debt_us, rest = 2 ^ 51, 0 end -- gcra.py's longest
  rate[1], rate[2] = at_us + debt_us, rest
  needs_until(rate[1] / 1000 + 1)
end

local function adjust_rate(rate, units, at_us)
  local debt_us, rest = 0, 0
  if rate[1] >= at_us then debt_us, rest = rate[1] - at_us, rate[2] end
  if units > 0 then
    local us, ticks = muldiv(units, rate[4], rate[3])
    set_debt(rate, at_us, debt_us + us, rest + ticks)
  else
    local us, ticks = muldiv(-units, rate[4], rate[3])
    if rest < ticks then debt_us, rest = debt_us - 1, rest + rate[3] end
    debt_us, rest = debt_us - us, rest - ticks
    if debt_us < 0 then debt_us, rest = 0, 0 end
    rate[1], rate[2] = at_us + debt_us, rest
  end
end

-- Tops up by so many units, or refunds where they are negative. Of a quota, `window` is
-- the one that was charged: once it has ended, nobody looks at it any more. 0: a rate.
local function adjust(meter, window, units, at_us)
  if window == 0 then
    if units ~= 0 then adjust_rate(meter, units, at_us) end
  elseif meter[1] == window then
    local used = meter[2] + units
    -- At most 2^52, as in meters.py.
    meter[2] = used < 0 and 0 or used > 2 ^ 52 and 2 ^ 52 or used
  end
end

-- Puts a lease into its places, or with the sign -1 takes it out. Never below zero: an
-- operator who deleted the usage alone must not have made room without an end.
local function take_place(scope_id, refusals, requests, tokens, sign)
  local places, is_beyond = scope_of(scope_id).places, refusals.leases
  changed[scope_id] = true
  if refusals.passing then
    local passing = (places[5] or 0) + sign
    places[5] = passing > 0 and passing or nil
    return
  end
  local held, beyond = places[1] + sign, places[2] + (is_beyond and sign or 0)
  requests, tokens = places[3] + sign * requests, places[4] + sign * tokens
  places[1], places[2] = held > 0 and held or 0, beyond > 0 and beyond or 0
  places[3], places[4] = requests > 0 and requests or 0, tokens > 0 and tokens or 0
end
