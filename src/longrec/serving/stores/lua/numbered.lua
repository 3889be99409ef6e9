-- The beginning of scripts that must be done once: a call that is sent again, since its answer was
-- lost, gets the answer of the first time. One that arrives after a later call of its sequence was
-- delayed in the network, and its sender has given up: it is refused.
-- Arguments: sequence; number of the call in it; time in seconds.

local sequence, call_number, call_time = arguments(3)
local done_key = prefix .. 'done:' .. sequence
local done_number, done_answer = (call('GET', done_key) or ''):match('^(%d+) %d+ (.*)$')
if done_number == call_number then
  return done_answer
elseif done_number and tonumber(done_number) > tonumber(call_number) then
  return redis.error_reply('ERR a later call of this connection was done')
end

local writes = {}
local function write_later(key, value)
  writes[#writes + 1] = key
  writes[#writes + 1] = value
end

-- Write all in one command, and the answer with it; nothing if there is nothing to write. Before the
-- answer stands how many calls have written something.
local function write(answer)
  local count = tonumber(call('GET', writes_key) or 0) or 0
  answer = string.format('%.0f ', #writes > 0 and count + 1 or count) .. answer
  if #writes > 0 then
    write_later(writes_key, string.format('%.0f', count + 1))
    write_later(done_key, call_number .. ' ' .. call_time .. ' ' .. answer)
    call('MSET', unpack(writes))
  end
  return answer
end
