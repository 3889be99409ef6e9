-- Delete a log, in steps of ERASED_EVENTS events; in the first also what models have of it, and the
-- user, if it is the user's log.
-- Arguments: user; id and length of the log; number of the step, from 0.
-- -> '1', or '0' if it is the user's log and has grown.

local user, log_id, length, step = arguments(4)
local keys, stored_id, stored_length = {}, log_of(user)
if stored_id == log_id then
  if step ~= '0' or stored_length ~= length then
    return '0'
  end
  keys[1] = user_key(user)
end
if step == '0' then
  for _, digest in ipairs(call('SMEMBERS', digests_key)) do
    add_model_keys(keys, digest, log_id)
  end
end
local first = step * ERASED_EVENTS
for index = first, math.min(first + ERASED_EVENTS, length) - 1, BLOCK_EVENTS do
  local key = block_key(log_id, index)
  local block, start = call('GET', key) or '', 1
  keys[#keys + 1] = key
  while start <= #block do
    local size, _, id_length = struct.unpack('<I4i8I2', block, start)
    if id_length ~= 65535 then
      keys[#keys + 1] = event_id_key(log_id, block:sub(start + 14, start + 13 + id_length))
    end
    start = start + 4 + size
  end
end
if #keys > 0 then
  call('UNLINK', unpack(keys))
end
return '1'
