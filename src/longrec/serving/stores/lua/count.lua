-- Arguments: count of digests; digests; users.
-- -> counts: users that are there, their events, records of each digest.

local digests = {arguments(arguments(1))}
local counts = {0, 0}
for n = 1, #digests do
  counts[2 + n] = 0
end
while arguments_left() do
  local user = arguments(1)
  local log_id, length = log_of(user)
  counts[1] = counts[1] + call('EXISTS', user_key(user))
  if log_id then
    counts[2] = counts[2] + length
    for n, digest in ipairs(digests) do
      counts[2 + n] = counts[2 + n] + call('EXISTS', record_key(digest, log_id))
    end
  end
end
return counts
