--[[
What is to be written of the usage, ready for HSET, or nil. Shared by the ledger's
scripts.
]]
local fields
if has_keys then
  for id, is_changed in pairs(changed) do
    if is_changed then
      fields = fields or {}
      fields[#fields + 1], fields[#fields + 2] = id, cmsgpack.pack(scopes[id])
    end
  end
elseif changed['-'] then
  fields = { '-', cmsgpack.pack(workspace) }
end
