--[[
For how long what is used still counts, and forgetting keys that came and went: a scope
that is new in the hash looks at some others there, and drops the idle ones. So a
workspace that hands out short-lived keys keeps not many more than it uses. Shared by
the ledger's scripts.
]]
-- At half, idle scopes would outnumber the others; at double, a new one takes longer.
local MOST_SWEPT = 4

local function quota_counts_until_ms(per, meter)
  local window, end_ms = window_at(per, div(now_us, 1000))
  if meter[2] == 0 or meter[1] < window then return 0 end
  -- Set back over the window's beginning, the clock does not say when it ends.
  return meter[1] == window and end_ms or nil
end

-- In epoch ms, 0 for a scope that may be forgotten; nil where that cannot be told, as of
-- what a newer version of these scripts has added.
local function counts_until_ms(scope)
  local until_ms = 0
  for dimension, meter in pairs(scope) do
    local at_ms = 0
    if dimension == 'places' then
      if meter[1] > 0 then return nil end
    elseif dimension ~= 'until_ms' then
      local per = string.match(dimension, '^%a@(%a+)$')
      if per then
        at_ms = quota_counts_until_ms(per, meter)
        if not at_ms then return nil end
      elseif not string.match(dimension, '^%a/%a+$') then
        return nil
      elseif meter[1] > now_us or (meter[1] == now_us and meter[2] > 0) then
        at_ms = math.ceil(meter[1] / 1000) + 1
      end
    end
    until_ms = math.max(until_ms, at_ms)
  end
  return until_ms
end

-- The idle ones among some others; nothing is written yet.
local function draw_idle()
  -- The owner of an abandoned lease may come back to any of them.
  if redis.call('ZCOUNT', leases_key, '-inf', -now_us) > 0 then return {} end
  -- Not every server's user may: then nothing is swept.
  local drawn, idle = redis.pcall('HRANDFIELD', usage_key, MOST_SWEPT, 'WITHVALUES'), {}
  for i = 1, #drawn, 2 do
    local is_read, scope = pcall(cmsgpack.unpack, drawn[i + 1])
    if drawn[i] ~= WORKSPACE and not scopes[drawn[i]] and is_read
      and type(scope) == 'table' and counts_until_ms(scope) == 0 then
      idle[#idle + 1] = drawn[i]
    end
  end
  return idle
end
