-- Write records, and bitmaps in place of those that stand here.
-- Arguments: digest; the server's run in which they were read.
--   Per user: user; its checksum; id of the log, version of the record that was read; record; list of
--   the bitmap's pages; these pages.
-- -> how many were written: those whose log is the same and whose record nobody else wrote.

local digest, run = arguments(2)
local same_run, written = is_run(run), 0
while arguments_left() do
  local user, user_check, log_id, read_version, record, packed_numbers = arguments(6)
  local current = same_run and log_of(user, user_check) == log_id
    and read_version == record_version(digest, log_id)
  if current then
    written = written + 1
    write_later(record_key(digest, log_id), record)
    write_later(page_list_key(digest, log_id), packed_numbers)
  end
  for _, page in ipairs(page_numbers(packed_numbers)) do
    local content = arguments(1)
    if current then
      write_later(page_key(digest, log_id, page), content)
    end
  end
end
return write(tostring(written))
