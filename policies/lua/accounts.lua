--[[
Charging and refunding what usage.lua has read. Shared by the ledger's scripts.
]]
-- Counts on at another limit: the debt in units stays, and in ticks too (gcra.py).
local function follow(rate, limit)
  if rate[1] < now_us then
    rate[2], rate[3] = 0, limit
    return
  end
  local debt_us, rest = debt_at(rate, now_us)
  local us, ticks = muldiv(debt_us, rate[3], limit)
  ticks, rate[3] = ticks + rest, limit
  set_debt(rate, now_us, us + div(ticks, limit), ticks % limit)
end

local function charge_rate(rate, units, at_us)
  local cost_us, cost_rest = muldiv(units, rate[4], rate[3])
  local debt_us, rest = debt_at(rate, at_us)
  rest = rest + cost_rest
  set_debt(rate, at_us, debt_us + cost_us + div(rest, rate[3]), rest % rate[3])
end

local function refund_rate(rate, units, at_us)
  local back_us, back_rest = muldiv(units, rate[4], rate[3])
  local debt_us, rest = debt_at(rate, at_us)
  if rest < back_rest then debt_us, rest = debt_us - 1, rest + rate[3] end
  debt_us, rest = debt_us - back_us, rest - back_rest
  if debt_us < 0 then debt_us, rest = 0, 0 end
  rate[1], rate[2] = at_us + debt_us, rest
end

-- Tops up by so many units, or refunds where they are negative. Of a quota, `window` is
-- the one that was charged: once it has ended, nobody looks at it any more. 0: a rate.
local function adjust(scope_id, dimension, window, units, at_us)
  local meter = scope_of(scope_id)[dimension]
  if units == 0 or not meter then return end
  if window == 0 then
    if units > 0 then
      charge_rate(meter, units, at_us)
    else
      refund_rate(meter, -units, at_us)
    end
  elseif meter[1] == window then
    meter[2] = math.min(math.max(0, meter[2] + units), MAX_COUNTED)
  end
  changed[scope_id] = true
end

-- Puts a lease into its places, or with the sign -1 takes it out. Never below zero: an
-- operator who deleted the usage alone must not have made room without an end.
local function take_place(scope_id, is_beyond, requests, tokens, sign)
  local places = scope_of(scope_id).places
  local changes = { sign, is_beyond and sign or 0, sign * requests, sign * tokens }
  for i = 1, 4 do places[i] = math.max(0, places[i] + changes[i]) end
  changed[scope_id] = true
end
