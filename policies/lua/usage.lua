--[[
What a workspace has used: read once, changed here, written once. Shared by the
ledger's scripts.

A field of the hash is a dimension, as dimensions.py names it, and its value
  of a rate    "tat_us rest limit": the TAT is tat_us + rest/limit microseconds
  of a quota   "window used"
  of places    "held beyond_shadow requests tokens": leases, and what they reserved
and `until` is the instant in ms from which on nothing of it matters.
]]
local usage_key = KEYS[1]
local MAX_DEBT_US = 2251799813685248 -- 2^51: gcra.py
local MAX_COUNTED = 4503599627370496 -- 2^52: meters.py

local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local meters, changed, until_ms = {}, {}, 0

local function parse(dimension, value)
  local a, b, c, d = string.match(value or '', '^(%S+) (%S+) ?(%S*) ?(%S*)$')
  meters[dimension] = { tonumber(a) or 0, tonumber(b) or 0, tonumber(c) or 0,
    tonumber(d) or 0 }
end

-- Reads these dimensions, and `until`, unless they are known already.
local function read(dimensions)
  local missing = { 'until' }
  for _, dimension in ipairs(dimensions) do
    if not meters[dimension] then missing[#missing + 1] = dimension end
  end
  local values = redis.call('HMGET', usage_key, unpack(missing))
  until_ms = math.max(until_ms, tonumber(values[1] or 0))
  for i = 2, #missing do parse(missing[i], values[i]) end
end

local function needs_until(at_ms)
  until_ms = math.max(until_ms, math.ceil(at_ms))
end

-- A rate's debt at an instant, in whole microseconds and a rest of 1/limit of them.
local function debt_at(rate, at_us)
  if rate[1] < at_us then return 0, 0 end
  return rate[1] - at_us, rate[2]
end

-- Counts on at another limit: the debt in units stays, and in ticks too (gcra.py). From
-- this decision on it refills at the new pace, even if the decision is a no.
local function follow(dimension, limit)
  local rate = meters[dimension]
  if rate[3] == limit then return end
  if rate[3] > 0 then
    local debt_us, rest = debt_at(rate, now_us)
    local us, ticks = muldiv(debt_us, rate[3], limit)
    ticks = ticks + rest
    us, rest = us + div(ticks, limit), ticks % limit
    if us >= MAX_DEBT_US then us, rest = MAX_DEBT_US, 0 end
    rate[1], rate[2] = now_us + us, rest
    changed[dimension] = true
    needs_until(rate[1] / 1000 + 1)
  end
  rate[3] = limit
end
