"""What the consumers of Redis streams do in one step each at the server.

Keys under the prefix of a group: `members`, the consumers that live, scored by when they are taken
for dead; `owner:STREAM`, who reads a stream, for as long as the lease goes.
"""

from __future__ import annotations

JOIN = """
local prefix, group, me, lease = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', prefix .. 'members', now + lease, me)
redis.call('ZREMRANGEBYSCORE', prefix .. 'members', '-inf', now)
redis.call('PEXPIRE', prefix .. 'members', 10 * lease)
local share = math.ceil((#ARGV - 4) / redis.call('ZCARD', prefix .. 'members'))
local mine, free = {}, {}
for i = 5, #ARGV do
    local key = prefix .. 'owner:' .. ARGV[i]
    local owner = redis.call('GET', key)
    if owner == me and #mine < share then
        redis.call('PEXPIRE', key, lease)
        mine[#mine + 1] = {ARGV[i], 0, 0, ''}
    elseif owner == me then
        redis.call('DEL', key)
    elseif not owner then
        free[#free + 1] = ARGV[i]
    end
end
for _, stream in ipairs(free) do
    if #mine < share then
        redis.call('SET', prefix .. 'owner:' .. stream, me, 'PX', lease)
        local problem, start, gone = '', '0-0', 0
        repeat
            local found = redis.pcall(
                'XAUTOCLAIM', stream, group, me, 0, start, 'COUNT', 1000, 'JUSTID')
            if found['err'] then
                problem, start = found['err'], '0-0'
                redis.call('DEL', prefix .. 'owner:' .. stream)
            else
                start, gone = found[1], gone + #(found[3] or {})
            end
        until start == '0-0'
        if problem == '' then
            for _, one in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
                local about = {}
                for i = 1, #one, 2 do about[one[i]] = one[i + 1] end
                if about['name'] ~= me and about['pending'] == 0 then
                    redis.call('XGROUP', 'DELCONSUMER', stream, group, about['name'])
                end
            end
        end
        mine[#mine + 1] = {stream, 1, gone, problem}
    end
end
return mine
"""
"""prefix, group, consumer, milliseconds of a lease, streams: say that a consumer lives, renew its
leases up to a fair share of the streams, let go what is above it, and take free ones with all that
was handed to anybody there and not acknowledged. -> of each (stream, whether it is new, how many of
these entries were deleted, problem)."""

READ = """
local prefix, group, me, stream, seen, count = unpack(ARGV)
if redis.call('GET', prefix .. 'owner:' .. stream) ~= me then return 'lost' end
for _, from in ipairs({seen, '>'}) do
    local found = redis.pcall(
        'XREADGROUP', 'GROUP', group, me, 'COUNT', count, 'STREAMS', stream, from)
    if found and found['err'] then return found['err'] end
    if found and #found[1][2] > 0 then return found[1][2] end
end
return {}
"""
"""prefix, group, consumer, stream, last entry seen, count: what this consumer was handed behind
that entry, else new entries; "lost" where another one reads the stream by now."""

LEAVE = """
redis.call('ZREM', ARGV[1] .. 'members', ARGV[2])
for i = 3, #ARGV do
    local key = ARGV[1] .. 'owner:' .. ARGV[i]
    if redis.call('GET', key) == ARGV[2] then redis.call('DEL', key) end
end
"""
"""prefix, consumer, streams: let go what a consumer reads."""
