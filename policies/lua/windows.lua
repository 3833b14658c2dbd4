--[[
The calendar windows of quotas, UTC: windows.py line by line. Shared by the ledger's
scripts.
]]
local HOUR_MS, DAY_MS = 3600000, 86400000
local DAYS_PER_ERA = 146097 -- 400 years, after which the calendar repeats
local EPOCH_IN_ERAS = 719468 -- days from 0000-03-01 to 1970-01-01

local function div(a, b)
  return math.floor(a / b)
end

-- The month, counted from January 1970, of a day counted from 1970-01-01.
local function month_of_day(day)
  local era = div(day + EPOCH_IN_ERAS, DAYS_PER_ERA)
  local of_era = (day + EPOCH_IN_ERAS) % DAYS_PER_ERA
  local year = div(
    of_era - div(of_era, 1460) + div(of_era, 36524) - div(of_era, 146096), 365)
  local of_year = of_era - (365 * year + div(year, 4) - div(year, 100))
  return (era * 400 + year - 1970) * 12 + 2 + div(5 * of_year + 2, 153)
end

local function first_day_of_month(month)
  local year = div(month + 1970 * 12 - 2, 12)
  local from_march = (month + 1970 * 12 - 2) % 12
  local era, of_era = div(year, 400), year % 400
  local of_year = div(153 * from_march + 2, 5)
  local day = 365 * of_era + div(of_era, 4) - div(of_era, 100) + of_year
  return era * DAYS_PER_ERA + day - EPOCH_IN_ERAS
end

-- The id of the window that holds this instant, and the instant in ms that ends it.
local function window_at(per, at_ms)
  if per == 'month' then
    local month = month_of_day(div(at_ms, DAY_MS))
    return month, first_day_of_month(month + 1) * DAY_MS
  end
  local length_ms = per == 'hour' and HOUR_MS or DAY_MS
  local id = div(at_ms, length_ms)
  return id, (id + 1) * length_ms
end
