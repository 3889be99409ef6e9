-- What is stored of users.
-- Arguments: digest; whether bitmaps are wanted, 1 or 0.
--   Per user: user; count of event ids; event ids that may be in the log.
-- -> per user false if there is none, or: id and length of the log, record or false, numbers of the
--    bitmap's pages, packed, these pages, and per event id 1 or 0.

local digest, with_bitmaps = arguments(2)
local answers = {}
while arguments_left() do
  local user, count = arguments(2)
  local log_id, length = log_of(user)
  local known = {}
  for n = 1, tonumber(count) do
    local event_id = arguments(1)
    known[n] = log_id and call('EXISTS', event_id_key(log_id, event_id))
  end
  if log_id then
    local packed_numbers, pages = with_bitmaps == '1' and stored_pages(digest, log_id) or '', {}
    for n, page in ipairs(page_numbers(packed_numbers)) do
      pages[n] = call('GET', page_key(digest, log_id, page))
    end
    local record = call('GET', record_key(digest, log_id))
    answers[#answers + 1] = {log_id, length, record, packed_numbers, pages, known}
  else
    answers[#answers + 1] = false
  end
end
return answers
