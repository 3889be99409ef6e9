-- Log events, and write each record that was made from the log and the record that stand here.
-- Arguments: digest.
--   Per user: user; id and length of the log, version of the record that the new one was made from;
--   id of the log if the user is a new one, or 0; record, or ''; counts of events and of items.
--   Per event: '+' and its id, or '-'; the event, packed.
--   Per item: its index, to be set in the bitmap.
-- -> 'FLAGS LENGTH CURRENT,...' per user: of each event whether it is new, the log's length, whether
--    the record was written; or, with nothing written, a table of new users that are not listed yet.

local function append_events(log_id, length, count)
  local flags, ids_of_call, block, first = {}, {}, '', length
  if length % BLOCK_EVENTS > 0 then
    block = call('GET', block_key(log_id, length)) or ''
  end
  for n = 1, count do
    local event_id, packed = arguments(2)
    local key = event_id ~= '-' and event_id_key(log_id, event_id:sub(2))
    if key and (ids_of_call[key] or call('EXISTS', key) == 1) then
      flags[n] = '0'
    else
      flags[n] = '1'
      if key then
        ids_of_call[key] = true
        write_later(key, '')
      end
      block = block .. packed
      length = length + 1
      if length % BLOCK_EVENTS == 0 then
        write_later(block_key(log_id, length - 1), block)
        block = ''
      end
    end
  end
  if length > first and length % BLOCK_EVENTS > 0 then
    write_later(block_key(log_id, length), block)
  end
  return table.concat(flags), length
end

local function add_items(digest, log_id, count)
  local packed_numbers, is_stored, pages = stored_pages(digest, log_id), {}, {}
  for _, page in ipairs(page_numbers(packed_numbers)) do
    is_stored[page] = true
  end
  for _ = 1, count do
    local item = tonumber((arguments(1)))
    local page, byte = math.floor(item / (8 * PAGE_BYTES)), math.floor(item / 8) % PAGE_BYTES + 1
    if not pages[page] then
      local content = ''
      if is_stored[page] then
        content = call('GET', page_key(digest, log_id, page))
      else
        packed_numbers = packed_numbers .. struct.pack('<I4', page)
      end
      pages[page] = {content:byte(1, -1)}
    end
    for missing = #pages[page] + 1, byte do
      pages[page][missing] = 0
    end
    pages[page][byte] = bit.bor(pages[page][byte], bit.lshift(1, item % 8))
  end
  for page, bytes in pairs(pages) do
    write_later(page_key(digest, log_id, page), string.char(unpack(bytes)))
  end
  write_later(page_list_key(digest, log_id), packed_numbers)
end

local digest = arguments(1)
local answers, unlisted = {}, {}
while arguments_left() do
  local user, read_id, read_length, read_version, new_id, record, events, items = arguments(8)
  local stored_id, stored_length = log_of(user)
  if not stored_id and (new_id == '0' or not call('ZSCORE', users_key, user)) then
    unlisted[#unlisted + 1] = user
  end
  local log_id = stored_id or new_id
  local flags, length = append_events(log_id, tonumber(stored_length or 0), tonumber(events))
  if flags:find('1') then
    write_later(user_key(user), log_id .. ' ' .. length)
  end
  local current = record ~= '' and not flags:find('0') and read_id == (stored_id or '0')
    and read_length == (stored_length or '0') and read_version == record_version(digest, log_id)
  if current then
    write_later(record_key(digest, log_id), record)
    add_items(digest, log_id, tonumber(items))
  else
    skip_arguments(items)
  end
  answers[#answers + 1] = flags .. ' ' .. length .. (current and ' 1' or ' 0')
end
if #unlisted > 0 then
  return unlisted
end
return write(table.concat(answers, ','))
