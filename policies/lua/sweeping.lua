--[[
For how long what is used still counts, and forgetting keys that came and went: a scope
that is new in the hash looks at some others there, and drops the idle ones. So a
workspace that hands out short-lived keys keeps not many more than it uses. Shared by
the ledger's scripts.
]]
local counts_until_ms
if is_scope_new or is_refunded then
  -- In epoch ms, 0 for a scope that may be forgotten; nil where that cannot be told, as
  -- of what a newer version of these scripts has added.
  function counts_until_ms(scope)
    local until_ms = 0
    for dimension, meter in pairs(scope) do
      local at_ms = 0
      local per = string.match(dimension, '^%a@(%a+)$')
      if dimension == 'places' then
        if meter[1] > 0 or meter[5] then return nil end
      elseif per then
        local window, end_ms = window_at(per, math.floor(now_us / 1000))
        -- Set back over the window's beginning, the clock does not say when it ends.
        if meter[2] > 0 and meter[1] > window then return nil end
        if meter[2] > 0 and meter[1] == window then at_ms = end_ms end
      elseif string.match(dimension, '^%a/%a+$') then
        if meter[1] > now_us or (meter[1] == now_us and meter[2] > 0) then
          at_ms = math.ceil(meter[1] / 1000) + 1
        end
      elseif dimension ~= 'until_ms' then
        return nil
      end
      until_ms = math.max(until_ms, at_ms)
    end
    return until_ms
  end
end

-- The idle ones among some others; nothing is written yet. Not while the owner of an
-- abandoned lease may come back to any of them.
local idle
if is_scope_new and fields
  and redis.call('ZCOUNT', leases_key, '-inf', -now_us) == 0 then
  -- Four: at half, idle scopes would outnumber the others; at double, a new one takes
  -- longer. Not every server's user may: then nothing is swept.
  local drawn = redis.pcall('HRANDFIELD', usage_key, 4, 'WITHVALUES')
  for i = 1, #drawn, 2 do
    local is_read, scope = pcall(cmsgpack.unpack, drawn[i + 1])
    if drawn[i] ~= '-' and not scopes[drawn[i]] and is_read
      and type(scope) == 'table' and counts_until_ms(scope) == 0 then
      idle = idle or {}
      idle[#idle + 1] = drawn[i]
    end
  end
end
