-- wrk script: POST one JSON record of about 100 bytes per request to one of the streams <prefix>0 … <prefix>(n-1).
-- Arguments after `--`: number of streams, path prefix. The bearer secret comes from the environment (BENCH_SECRET).
local requests, turn = {}, 0

function init(arguments)
  local count, prefix, secret = tonumber(arguments[1]), arguments[2], os.getenv("BENCH_SECRET")
  local body = '{"text":"' .. string.rep("a", 89) .. '"}'
  local headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. secret }
  for i = 0, count - 1 do
    requests[#requests + 1] = wrk.format("POST", prefix .. i, headers, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %.0f %.3f %.3f %d\n", summary.requests / (summary.duration / 1e6),
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
