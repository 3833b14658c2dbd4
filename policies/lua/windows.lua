--[[
The calendar windows of quotas, UTC, as windows.py has them. Shared by the ledger's
scripts.
]]
-- The id of the window that holds this instant, and the instant in ms that ends it. One
-- function, and `a - a % b` for whole divisions, because calls cost more than sums.
local function window_at(per, at_ms)
  if per ~= 'month' then
    local length_ms = per == 'hour' and 3600000 or 86400000
    local begin_ms = at_ms - at_ms % length_ms
    return begin_ms / length_ms, begin_ms + length_ms
  end
  -- In years that begin in March, counted from the year 0, and in quarters of a day,
  -- of which a century has 146097 and a year 1461 (Neri and Schneider, "Euclidean
  -- affine functions", 2022).
  local days = (at_ms - at_ms % 86400000) / 86400000 + 719468
  local of_century = (4 * days + 3) % 146097
  local century = (4 * days + 3 - of_century) / 146097
  local quarters = of_century - of_century % 4 + 3
  local of_year = quarters % 1461
  local year = 100 * century + (quarters - of_year) / 1461
  local day = (of_year - of_year % 4) / 4
  -- From March, month lengths repeat as 31 30 31 30 31: 153 days in five months.
  local month = (5 * day + 2 - (5 * day + 2) % 153) / 153
  local next_day = 153 * (month + 1) + 2
  local end_day = days - day + (next_day - next_day % 5) / 5
  if month == 11 then -- February, which a year that begins in March ends with
    year, month = year + 1, -1
    end_day = 365 * year + (year - year % 4) / 4 - (year - year % 100) / 100
      + (year - year % 400) / 400
  end
  return (year - 1970) * 12 + 2 + month, (end_day - 719468) * 86400000
end
