--[[
Forgetting keys that came and went: a scope that is new in the hash looks at some others
there, and drops the idle ones. So a workspace that hands out short-lived keys keeps not
many more than it uses. Shared by the ledger's scripts.
]]
-- At half, idle scopes would outnumber the others; at double, a new one takes longer.
local MOST_SWEPT = 4

-- Rates that have refilled and quotas whose window has ended; what a newer version of
-- these scripts added is never idle.
local function is_idle(scope)
  for dimension, meter in pairs(scope) do
    if dimension == 'places' then
      if meter[1] > 0 then return false end
    elseif type(meter) ~= 'table' then
      return false
    elseif #meter == 4 then
      if meter[1] > now_us then return false end
    else
      local per = string.match(dimension, '^%a@(%a+)$')
      if not per or meter[1] >= window_at(per, div(now_us, 1000)) then
        return false
      end
    end
  end
  return true
end

local function sweep()
  -- The owner of an abandoned lease may come back to any of them.
  if redis.call('ZCOUNT', leases_key, '-inf', -now_us) > 0 then return end
  local drawn = redis.call('HRANDFIELD', usage_key, MOST_SWEPT, 'WITHVALUES')
  for i = 1, #drawn, 2 do
    local id = drawn[i]
    if id ~= WORKSPACE and not scopes[id] and is_idle(cmsgpack.unpack(drawn[i + 1])) then
      redis.call('HDEL', usage_key, id)
    end
  end
end
