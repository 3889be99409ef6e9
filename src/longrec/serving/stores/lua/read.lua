-- What is stored of users.
-- Arguments: digest; whether bitmaps are wanted, 1 or 0.
--   Per user: user; count of event ids; event ids that may be in the log.
-- -> per user false if there is none, or: what stands there of the log, record or false, list of the
--    bitmap's pages or false, these pages, each or false, and per event id the digest of its event,
--    false if it is not in the log.

local digest, with_bitmaps = arguments(2)
local answers = {}
while arguments_left() do
  local user, count = arguments(2)
  local head, log_id = call('GET', user_key(user)), log_of(user)
  local known, pages, packed_numbers = {}, {}, false
  for n = 1, tonumber(count) do
    local event_id = arguments(1)
    known[n] = log_id and call('GET', event_id_key(log_id, event_id))
  end
  if log_id and with_bitmaps == '1' then
    packed_numbers = call('GET', page_list_key(digest, log_id))
    for n, page in ipairs(page_numbers(packed_numbers or '')) do
      pages[n] = call('GET', page_key(digest, log_id, page))
    end
  end
  if log_id then
    local record = call('GET', record_key(digest, log_id))
    answers[#answers + 1] = {head, record, packed_numbers, pages, known}
  elseif head then
    answers[#answers + 1] = {head}
  else
    answers[#answers + 1] = false
  end
end
return answers
