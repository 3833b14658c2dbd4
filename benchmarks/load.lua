--[[
POST one body, over and over, with one set of headers or rotating through many.

    wrk ... -s load.lua URL -- BODY_FILE HEADERS_FILE

HEADERS_FILE has one set of headers a line, as `Name: value|Name: value`. One set alone
is wrk's static request, which costs the load nothing; several are formatted before the
start, and picked in turn.

Prints one line at the end that benchmarks/wrk.py reads.
]]

local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

local function headers_of(line)
  local headers = {["Content-Type"] = "application/json"}
  for name, value in line:gmatch("([^|:]+): ([^|]+)") do
    headers[name] = value
  end
  return headers
end

function init(args)
  wrk.method = "POST"
  wrk.body = read(args[1])
  local sets = {}
  for line in (read(args[2]) .. "\n"):gmatch("([^\n]*)\n") do
    sets[#sets + 1] = headers_of(line)
  end
  for name, value in pairs(sets[1]) do
    wrk.headers[name] = value
  end
  if #sets == 1 then
    return
  end

  local requests = {}
  for turn, headers in ipairs(sets) do
    headers["Host"] = wrk.headers["Host"]
    requests[turn] = wrk.format("POST", wrk.path, headers, wrk.body)
  end
  local turn = 0
  -- Defined only here: wrk then asks Lua for every request.
  function request()
    turn = turn % #requests + 1
    return requests[turn]
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    "figures requests=%d duration_us=%d p50_us=%d p99_us=%d status=%d socket=%d timeout=%d\n",
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
