--[[
Leases: who holds them, what they were charged, and what becomes of those whose owner
was not heard of for a ttl. Shared by the ledger's scripts.

A charge, the value of a lease id in the hash, is
  "requests tokens progress charged scope account account ..."
with the reserved requests and tokens; the last progress; the tokens the accounts stand
at, `-` while it is held; the key's scope, `-` for none; and the accounts, `!dimension`
for a limit in shadow that would have refused it.
]]
local leases_key, charges_key, settled_key = KEYS[2], KEYS[3], KEYS[4]
-- How long an owner that was taken for dead may still correct its charge, as in
-- memory_ledger.py. Meanwhile its lease's score is negative: minus the end of that time.
local KEPT_US = 3600000000
-- Reclaimed at once: 3 ms of a single-threaded server. What is left waits for the next
-- call; until then its places count as taken.
local MAX_RECLAIMED = 1000

local abandoned, forgotten = {}, {} -- lease id -> charge; lease ids

local function parse_charge(value)
  local charge = { accounts = {}, refused = {} }
  local rest
  charge.requests, charge.tokens, charge.progress, charge.charged, charge.scope, rest =
    string.match(value, '^(%S+) (%S+) (%S+) (%S+) (%S+) ?(.*)$')
  charge.requests, charge.tokens = tonumber(charge.requests), tonumber(charge.tokens)
  charge.progress = tonumber(charge.progress)
  charge.charged = tonumber(charge.charged)
  for account in string.gmatch(rest, '%S+') do
    if string.sub(account, 1, 1) == '!' then
      charge.refused[string.sub(account, 2)] = true
    else
      charge.accounts[#charge.accounts + 1] = account
    end
  end
  charge.rest = rest
  return charge
end

local function charge_text(charge)
  return table.concat({ text(charge.requests), text(charge.tokens),
    text(charge.progress), charge.charged and text(charge.charged) or '-',
    charge.scope, charge.rest }, ' ')
end

-- Reads every dimension the charge stands in.
local function read_accounts(charge)
  local dimensions = { 'places' }
  if charge.scope ~= '-' then dimensions[2] = 'places#' .. charge.scope end
  for _, account in ipairs(charge.accounts) do
    dimensions[#dimensions + 1] = string.match(account, '^[^=]+')
  end
  read(dimensions)
end
