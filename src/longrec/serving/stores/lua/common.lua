-- The beginning of every script: its arguments and the keys of the store (redis_layout.py).

local call = redis.call
local position = 0

-- The next arguments of the call, so many at once.
local function arguments(count)
  position = position + count
  return unpack(ARGV, position - count + 1, position)
end

local function skip_arguments(count)
  position = position + count
end

local function arguments_left()
  return position < #ARGV
end

local prefix = arguments(1)
local users_key, digests_key, meta_key = prefix .. 'users', prefix .. 'digests', prefix .. 'meta'
local run_key, born_key, writes_key = prefix .. 'run', prefix .. 'born', prefix .. 'writes'

-- Whether this is the run of the server in which a caller read what it goes by.
local function is_run(run)
  return run == ((call('GET', run_key) or ''):match('^%S+') or '')
end

local function user_key(user)
  return prefix .. 'user:' .. user
end

-- The block that has the event with this index, counted from 0.
local function block_key(log_id, index)
  return prefix .. 'log:' .. log_id .. ':' .. math.floor(index / BLOCK_EVENTS)
end

local function event_id_key(log_id, event_id)
  return prefix .. 'id:' .. log_id .. ':' .. event_id
end

-- What a model has of a log: its record, the numbers of its bitmap's pages, and these pages.
local function record_key(digest, log_id)
  return prefix .. 'record:' .. digest .. ':' .. log_id
end

local function page_list_key(digest, log_id)
  return prefix .. 'pages:' .. digest .. ':' .. log_id
end

local function page_key(digest, log_id, page)
  return prefix .. 'seen:' .. digest .. ':' .. log_id .. ':' .. page
end

-- Of a list of pages; before them stands its checksum.
local function page_numbers(packed)
  local numbers = {}
  for start = 5, #packed - 3, 4 do
    numbers[#numbers + 1] = struct.unpack('<I4', packed, start)
  end
  return numbers
end

local function stored_pages(digest, log_id)
  return call('GET', page_list_key(digest, log_id)) or ''
end

-- Add the keys of all that a model has of a log.
local function add_model_keys(keys, digest, log_id)
  for _, page in ipairs(page_numbers(stored_pages(digest, log_id))) do
    keys[#keys + 1] = page_key(digest, log_id, page)
  end
  keys[#keys + 1] = record_key(digest, log_id)
  keys[#keys + 1] = page_list_key(digest, log_id)
end

local TWO_32 = 4294967296

local function folded(number)
  return bit.bxor(number % TWO_32, math.floor(number / TWO_32))
end

-- The checksum of id and length of a log, as text (head_check in checks.py).
local function head_check(user_check, log_id, length)
  local check = bit.bxor(user_check, bit.rol(folded(log_id), 16), folded(length))
  return string.format('%.0f', check % TWO_32)
end

-- Id and length of a user's log, as text; nothing if there is no such user. Where the checksum of the
-- user is given, what does not fit it is an error.
local function log_of(user, user_check)
  local head = call('GET', user_key(user))
  if not head then
    return nil
  end
  local log_id, length, check = head:match('^(%d+) (%d+) (%d+)$')
  if user_check and (not log_id or check ~= head_check(user_check, log_id, length)) then
    error('DAMAGED user')
  end
  return log_id, length
end

-- Eight bytes, zeros if there is no record.
local function record_version(digest, log_id)
  local header = call('GETRANGE', record_key(digest, log_id), 0, HEADER_BYTES - 1)
  if #header < HEADER_BYTES or header:sub(1, 3) ~= 'LRU' then
    return string.rep(string.char(0), 8)
  end
  return header:sub(VERSION_OFFSET + 1, VERSION_OFFSET + 8)
end
