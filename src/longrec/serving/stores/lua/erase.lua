-- Delete a log, in steps of ERASED_EVENTS events; in the first also what models have of it, and the
-- user, if it is the user's log.
-- Arguments: user; id and length of the log; number of the step, from 0; the server's run in which
-- the log was read, or '' where that does not matter.
-- -> '1', or '0' if it is the user's log and has grown, or the run is another one.

local user, log_id, length, step, run = arguments(5)
if run ~= '' and not is_run(run) then
  return '0'
end
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
  while start + 17 <= #block do -- else it is damaged
    local size, _, _, id_length = struct.unpack('<I4I4i8I2', block, start)
    local id_start = start + 18
    if id_length == ID_AND_COLUMNS and start + 20 <= #block then -- the columns stand before the id
      local of_id, of_columns = struct.unpack('<BI2', block, id_start)
      id_start, id_length = id_start + 3 + of_columns, of_id
    end
    if id_length <= LONGEST_ID then
      keys[#keys + 1] = event_id_key(log_id, block:sub(id_start, id_start + id_length - 1))
    end
    start = start + 8 + size
  end
end
if #keys > 0 then
  call('UNLINK', unpack(keys))
end
return '1'
