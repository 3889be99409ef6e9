"""Redis's scripts of a store: what must be one step. Keys, all under the store's prefix:

    meta                   JSON
    born                   the last `born` given
    users                  sorted set of users, all scores 0, to page through them; it may have more
    user:USER              born and last of the log, in decimals
    log:BORN:N             64 events: those with numbers from 64 N + 1 (redis_values.py)
    id:BORN:ID             of each event id in the log, empty
    record:DIGEST:BORN     the record
    pages:DIGEST:BORN      numbers of the bitmap's pages, u32 each
    seen:DIGEST:BORN:N     page N: 8,192 bits
    digests                set of digests that records were written of
    old                    hash: born -> since when, length, user of logs that are built or deleted
    done:SLOT              number, time and answer of the last changing call of a connection
    run                    the server's run that was seen last (redis_settings.py)

**A script writes with one command**, MSET or UNLINK. Several would stand in Redis's append-only
file as a transaction. If Redis dies while it writes one, its next start drops what was written of
it, but may leave that in the file, and the start after that does it: events would be there twice.
And what is one command shares one sync, however many users it is about; commands that are sent
together need not.

A changing call whose answer was lost is sent again under its number and answered from `done`; so it
is done once, and its answer is the first one's. A call that arrives after a later one of its
connection was held up on its way, and given up: it is refused.
"""

from __future__ import annotations

import hashlib
import struct

from longrec.serving.stores.protocol import HEADER

BLOCK = 64
"""Events of a log in one value."""
PAGE = 1024
"""Bytes of a bitmap in one value."""
ERASED = 2048
"""Events that one step deletes."""
_VERSION = struct.calcsize("<4sI8sq")
"""Where the version stands in a record."""


class Script:
    """A script's text, and the digest by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()


_COMMON = f"""
local prefix = ARGV[1]
local call = redis.call

-- Born and last of a user's log, as text; nothing if there is no such user.
local function log_of(user)
  return (call('GET', prefix .. 'user:' .. user) or ''):match('^(%d+) (%d+)$')
end

local function version_of(record)
  local head = call('GETRANGE', record, 0, {HEADER.size - 1})
  if #head < {HEADER.size} or head:sub(1, 3) ~= 'LRU' then
    return string.rep(string.char(0), 8)
  end
  return head:sub({_VERSION + 1}, {_VERSION + 8})
end

-- Keys of a bitmap's pages, in the order of their numbers in `numbers`.
local function pages_of(numbers, of)
  local pages = {{}}
  for n = 1, #(numbers or '') / 4 do
    pages[n] = prefix .. 'seen:' .. of .. ':' .. struct.unpack('<I4', numbers, 4 * n - 3)
  end
  return pages
end
"""

# ARGV: prefix, slot, number of the call, time
_CHANGING = """
local done, number = prefix .. 'done:' .. ARGV[2], tonumber(ARGV[3])
local before, answer = (call('GET', done) or ''):match('^(%d+) %d+ (.*)$')
if before and tonumber(before) == number then
  return answer
elseif before and tonumber(before) > number then
  return redis.error_reply('ERR a later call of this connection was done')
end

local sets = {}
local function set(key, value)
  sets[#sets + 1] = key
  sets[#sets + 1] = value
end

-- Write all that is to be set, if there is anything.
local function finish(answer)
  if #sets > 0 then
    set(done, ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. answer)
    call('MSET', unpack(sets))
  end
  return answer
end
"""

APPEND = Script(
    _COMMON
    + _CHANGING
    + f"""
-- then digest; per user: user, born, last, version, born if it is to be a new user or 0, record,
-- counts of events and of seen; per event '+' and its id or '-', value; item indices seen
local digest, at, answers, missing = ARGV[5], 6, {{}}, {{}}
while at <= #ARGV do
  local user, born, last, version, fresh, record = unpack(ARGV, at, at + 5)
  local events = at + 8
  local seen = events + 2 * tonumber(ARGV[at + 6])
  at = seen + tonumber(ARGV[at + 7])
  local stored, length = log_of(user)
  if not stored and (fresh == '0' or not call('ZSCORE', prefix .. 'users', user)) then
    missing[#missing + 1] = user
  end
  local mine = stored or fresh
  local of, ids = digest .. ':' .. mine, prefix .. 'id:' .. mine .. ':'
  local current = record ~= '' and born == (stored or '0') and last == (length or '0')
    and version == version_of(prefix .. 'record:' .. of)
  local n, new, known = tonumber(length or 0), {{}}, {{}}
  local began, block = n, ''
  local function log_key(n)
    return prefix .. 'log:' .. mine .. ':' .. math.floor(n / {BLOCK})
  end
  if n % {BLOCK} > 0 then
    block = call('GET', log_key(n)) or ''
  end
  for event = events, seen - 1, 2 do
    local name = ARGV[event]
    if name ~= '-' and (known[name] or call('EXISTS', ids .. name:sub(2)) == 1) then
      new[#new + 1] = '0'
      current = false
    else
      new[#new + 1] = '1'
      if name ~= '-' then
        known[name] = true
        set(ids .. name:sub(2), '')
      end
      block = block .. ARGV[event + 1]
      n = n + 1
      if n % {BLOCK} == 0 then
        set(log_key(n - 1), block)
        block = ''
      end
    end
  end
  if n > began then
    if n % {BLOCK} > 0 then
      set(log_key(n), block)
    end
    set(prefix .. 'user:' .. user, mine .. ' ' .. n)
  end
  if current then
    set(prefix .. 'record:' .. of, record)
    local numbers, bits, listed = call('GET', prefix .. 'pages:' .. of) or '', {{}}, {{}}
    for i = 1, #numbers, 4 do
      listed[struct.unpack('<I4', numbers, i)] = true
    end
    for i = seen, at - 1 do
      local index = tonumber(ARGV[i])
      local page, byte = math.floor(index / {8 * PAGE}), math.floor(index % {8 * PAGE} / 8) + 1
      if not bits[page] then
        local content = ''
        if listed[page] then
          content = call('GET', prefix .. 'seen:' .. of .. ':' .. page)
        else
          numbers = numbers .. struct.pack('<I4', page)
        end
        bits[page] = {{content:byte(1, -1)}}
      end
      for fill = #bits[page] + 1, byte do
        bits[page][fill] = 0
      end
      bits[page][byte] = bit.bor(bits[page][byte], bit.lshift(1, index % 8))
    end
    for page, bytes in pairs(bits) do
      set(prefix .. 'seen:' .. of .. ':' .. page, string.char(unpack(bytes)))
    end
    set(prefix .. 'pages:' .. of, numbers)
  end
  answers[#answers + 1] = table.concat(new) .. ' ' .. n .. (current and ' 1' or ' 0')
end
if #missing > 0 then
  return missing
end
return finish(table.concat(answers, ','))
"""
)

PUT = Script(
    _COMMON
    + _CHANGING
    + """
-- then digest; per user: user, born, version, record, numbers of the bitmap's pages; these
local digest, at, written = ARGV[5], 6, 0
while at <= #ARGV do
  local user, born, version, record, numbers = unpack(ARGV, at, at + 4)
  local of = digest .. ':' .. born
  if log_of(user) == born and version == version_of(prefix .. 'record:' .. of) then
    written = written + 1
    set(prefix .. 'record:' .. of, record)
    set(prefix .. 'pages:' .. of, numbers)
    for n, key in ipairs(pages_of(numbers, of)) do
      set(key, ARGV[at + 4 + n])
    end
  end
  at = at + 5 + #numbers / 4
end
return finish(tostring(written))
"""
)

REPLACE = Script(
    _COMMON
    + _CHANGING
    + f"""
-- then, per user: user, born, last, born and last of the log that was built
local answers, missing = {{}}, {{}}
for at = 5, #ARGV, 5 do
  local user, born, last, built, many = unpack(ARGV, at, at + 4)
  local stored, length = log_of(user)
  local ends = prefix .. 'log:' .. built .. ':' .. math.floor((many - 1) / {BLOCK})
  if born == (stored or '0') and last == (length or '0') and call('EXISTS', ends) == 1 then
    answers[#answers + 1] = '1'
    set(prefix .. 'user:' .. user, built .. ' ' .. many)
    if not call('ZSCORE', prefix .. 'users', user) then
      missing[#missing + 1] = user
    end
  else
    answers[#answers + 1] = '0'
  end
end
if #missing > 0 then
  return missing
end
return finish(table.concat(answers))
"""
)

META = Script(
    _COMMON
    + _CHANGING
    + """
-- then what must stand there, what shall
if (call('GET', prefix .. 'meta') or '') ~= ARGV[5] then
  return '0'
end
set(prefix .. 'meta', ARGV[6])
return finish('1')
"""
)

ERASE = Script(
    _COMMON
    + f"""
-- ARGV: prefix, user, born, last, number of the step. It may be the user's log: then the user goes
-- first, if nothing was logged since.
local user, born, last, step = unpack(ARGV, 2, 5)
local names, stored, length = {{}}, log_of(user)
if stored == born then
  if step ~= '0' or length ~= last then
    return '0'
  end
  names[1] = prefix .. 'user:' .. user
end
if step == '0' then
  for _, digest in ipairs(call('SMEMBERS', prefix .. 'digests')) do
    local of = digest .. ':' .. born
    local pages = pages_of(call('GET', prefix .. 'pages:' .. of), of)
    names[#names + 1] = prefix .. 'record:' .. of
    names[#names + 1] = prefix .. 'pages:' .. of
    for _, key in ipairs(pages) do
      names[#names + 1] = key
    end
  end
end
local first = tonumber(step) * {ERASED // BLOCK}
for n = first, math.min(first + {ERASED // BLOCK - 1}, math.floor((last - 1) / {BLOCK})) do
  local key = prefix .. 'log:' .. born .. ':' .. n
  local block, at = call('GET', key) or '', 1
  names[#names + 1] = key
  while at <= #block do
    local size, _, length = struct.unpack('<I4i8I2', block, at)
    if length ~= 65535 then
      names[#names + 1] = prefix .. 'id:' .. born .. ':' .. block:sub(at + 14, at + 13 + length)
    end
    at = at + 4 + size
  end
end
if #names > 0 then
  call('UNLINK', unpack(names))
end
return '1'
"""
)

UNLIST = Script(
    _COMMON
    + """
-- ARGV: prefix, user
if not log_of(ARGV[2]) then
  call('ZREM', prefix .. 'users', ARGV[2])
end
return ''
"""
)

DROP = Script(
    _COMMON
    + """
-- ARGV: prefix, digest, users
local names = {}
for at = 3, #ARGV do
  local of = ARGV[2] .. ':' .. (log_of(ARGV[at]) or '')
  for _, key in ipairs(pages_of(call('GET', prefix .. 'pages:' .. of), of)) do
    names[#names + 1] = key
  end
  names[#names + 1] = prefix .. 'record:' .. of
  names[#names + 1] = prefix .. 'pages:' .. of
end
call('UNLINK', unpack(names))
return ''
"""
)

READ = Script(
    _COMMON
    + """
-- ARGV: prefix, digest, whether bitmaps are wanted; per user: user, count of event ids, these
local at, answers = 4, {}
while at <= #ARGV do
  local user, names = ARGV[at], at + 2
  at = names + tonumber(ARGV[at + 1])
  local born, last = log_of(user)
  if not born then
    answers[#answers + 1] = false
  else
    local of, numbers, pages, known = ARGV[2] .. ':' .. born, '', {}, {}
    if ARGV[3] == '1' then
      numbers = call('GET', prefix .. 'pages:' .. of) or ''
      for n, key in ipairs(pages_of(numbers, of)) do
        pages[n] = call('GET', key)
      end
    end
    for n = names, at - 1 do
      known[#known + 1] = call('EXISTS', prefix .. 'id:' .. born .. ':' .. ARGV[n])
    end
    local record = call('GET', prefix .. 'record:' .. of)
    answers[#answers + 1] = {born, last, record, numbers, pages, known}
  end
end
return answers
"""
)

EVENTS = Script(
    _COMMON
    + """
-- ARGV: prefix, user, born, first block, last block; -> last, blocks
local born, last = log_of(ARGV[2])
if born ~= ARGV[3] then
  return {}
end
local found = {last}
for n = tonumber(ARGV[4]), tonumber(ARGV[5]) do
  local block = call('GET', prefix .. 'log:' .. born .. ':' .. n)
  if not block then
    break
  end
  found[#found + 1] = block
end
return found
"""
)

USERS = Script(
    _COMMON
    + """
-- ARGV: prefix, the least user as ZRANGEBYLEX takes it, how many; -> where it ended, users
local listed = call('ZRANGEBYLEX', prefix .. 'users', ARGV[2], '+', 'LIMIT', 0, ARGV[3])
local found = {listed[#listed] or false}
for _, user in ipairs(listed) do
  if log_of(user) then
    found[#found + 1] = user
  end
end
return found
"""
)

COUNT = Script(
    _COMMON
    + """
-- ARGV: prefix, count of digests, these, users; -> users, events, records of each digest
local digests = tonumber(ARGV[2])
local found = {0, 0}
for n = 1, digests do
  found[2 + n] = 0
end
for at = 3 + digests, #ARGV do
  local born, last = log_of(ARGV[at])
  if born then
    found[1] = found[1] + 1
    found[2] = found[2] + tonumber(last)
    for n = 1, digests do
      local record = prefix .. 'record:' .. ARGV[2 + n] .. ':' .. born
      found[2 + n] = found[2 + n] + call('EXISTS', record)
    end
  end
end
return found
"""
)
