-- Make logs that were built beside those of their users the users' own.
-- Arguments: the server's run in which the logs were read and the new ones built.
--   Per user: user; its checksum; id and length of the log that was read; id and length of the
--   new one; what shall stand there of it.
-- -> per user '1', or '0' where the log, or the run, is another one by now, or the new log was deleted; or, with
--    nothing written, a table of new users that are not listed yet.

local same_run = is_run(arguments(1))
local answers, unlisted = {}, {}
while arguments_left() do
  local user, user_check, read_id, read_length, new_id, new_length, head = arguments(7)
  local stored_id, stored_length = log_of(user, user_check)
  if same_run and read_id == (stored_id or '0') and read_length == (stored_length or '0')
    and call('EXISTS', block_key(new_id, new_length - 1)) == 1 then
    answers[#answers + 1] = '1'
    write_later(user_key(user), head)
    if not call('ZSCORE', users_key, user) then
      unlisted[#unlisted + 1] = user
    end
  else
    answers[#answers + 1] = '0'
  end
end
if #unlisted > 0 then
  return unlisted
end
return write(table.concat(answers))
