-- Blocks of a log.
-- Arguments: user; id of the log; indices of the first and the last event wanted.
-- -> what stands there of the log, and the blocks, '' for one that is not there; nothing if the user's
--    log is another one.

local user, log_id, first, last = arguments(4)
local stored_id, length = log_of(user)
if stored_id ~= log_id then
  return {call('GET', user_key(user))}
end
local answer = {call('GET', user_key(user))}
for index = first - first % BLOCK_EVENTS, math.min(last, length - 1), BLOCK_EVENTS do
  answer[#answer + 1] = call('GET', block_key(log_id, index)) or ''
end
return answer
