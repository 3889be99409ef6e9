-- Blocks of a log.
-- Arguments: user; id of the log; indices of the first and the last event wanted.
-- -> the log's length and the blocks, those that there are; nothing if the user's log is another one.

local user, log_id, first, last = arguments(4)
local stored_id, length = log_of(user)
if stored_id ~= log_id then
  return {}
end
local answer = {length}
for index = first - first % BLOCK_EVENTS, math.min(last, length - 1), BLOCK_EVENTS do
  local block = call('GET', block_key(log_id, index))
  if not block then
    break
  end
  answer[#answer + 1] = block
end
return answer
