-- Log events, and write each record that was made from the log and the record that stand here.
-- Arguments: digest; the server's run in which logs and records were read.
--   Per user: user; checksum of the user; id and length of the log, version of the record that the new
--   one was made from; id of the log if the user is a new one, or 0; record, or ''; checksum of the
--   owner of the bitmap; counts of events and of items.
--   Per event: '+' and its id, or '-'; the event, packed, its checksum without its number.
--   Per item: its index, to be set in the bitmap; what its bit adds to the checksum.
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
        write_later(key, packed:sub(5, 8))
      end
      length = length + 1
      local check = bit.bxor(struct.unpack('<I4', packed, 5), length) % TWO_32
      block = block .. packed:sub(1, 4) .. struct.pack('<I4', check) .. packed:sub(9)
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

local function add_items(digest, log_id, owner, count)
  local packed_numbers, is_stored, pages = stored_pages(digest, log_id), {}, {}
  local list_check = #packed_numbers < 4 and owner or struct.unpack('<I4', packed_numbers)
  local numbers = page_numbers(packed_numbers)
  for _, page in ipairs(numbers) do
    is_stored[page] = true
  end
  for _ = 1, count do
    local item, bit_check = arguments(2)
    item = tonumber(item)
    local page, byte = math.floor(item / (8 * PAGE_BYTES)), math.floor(item / 8) % PAGE_BYTES + 1
    if not pages[page] then
      local content = ''
      if is_stored[page] then -- one that is not there stays damaged
        content = call('GET', page_key(digest, log_id, page)) or string.rep(string.char(0), 4)
      else
        numbers[#numbers + 1] = page
        list_check = bit.bxor(list_check, page + 1)
      end
      local check = bit.bxor(EMPTY_PAGE, owner, page)
      if #content >= 4 then
        check = struct.unpack('<I4', content)
      end
      pages[page] = {check = check, bytes = {content:byte(5, -1)}}
    end
    local bytes, mask = pages[page].bytes, bit.lshift(1, item % 8)
    for missing = #bytes + 1, byte do
      bytes[missing] = 0
    end
    if bit.band(bytes[byte], mask) == 0 then
      bytes[byte] = bit.bor(bytes[byte], mask)
      pages[page].check = bit.bxor(pages[page].check, bit_check)
    end
  end
  for page, stored in pairs(pages) do
    local check = struct.pack('<I4', stored.check % TWO_32)
    write_later(page_key(digest, log_id, page), check .. string.char(unpack(stored.bytes)))
  end
  local packed = {struct.pack('<I4', list_check % TWO_32)}
  for _, page in ipairs(numbers) do
    packed[#packed + 1] = struct.pack('<I4', page)
  end
  write_later(page_list_key(digest, log_id), table.concat(packed))
end

local digest, run = arguments(2)
local same_run = is_run(run)
local answers, unlisted = {}, {}
while arguments_left() do
  local user, user_check, read_id, read_length, read_version, new_id, record, owner, events, items =
    arguments(10)
  local stored_id, stored_length = log_of(user, user_check)
  if not stored_id and (new_id == '0' or not call('ZSCORE', users_key, user)) then
    unlisted[#unlisted + 1] = user
  end
  local log_id = stored_id or new_id
  local flags, length = append_events(log_id, tonumber(stored_length or 0), tonumber(events))
  if flags:find('1') then
    local check = head_check(user_check, log_id, length)
    write_later(user_key(user), log_id .. ' ' .. length .. ' ' .. check)
  end
  local current = same_run and record ~= '' and not flags:find('0') and read_id == (stored_id or '0')
    and read_length == (stored_length or '0') and read_version == record_version(digest, log_id)
  if current then
    write_later(record_key(digest, log_id), record)
    add_items(digest, log_id, tonumber(owner), tonumber(items))
  else
    skip_arguments(2 * items)
  end
  answers[#answers + 1] = flags .. ' ' .. length .. (current and ' 1' or ' 0')
end
if #unlisted > 0 then
  return unlisted
end
return write(table.concat(answers, ','))
