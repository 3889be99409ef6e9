-- A page of the list of users.
-- Arguments: where it begins, as ZRANGEBYLEX has it; how many.
-- -> the last user that was listed, false at the end; users that are there, which may be fewer.

local start, count = arguments(2)
local listed = call('ZRANGEBYLEX', users_key, start, '+', 'LIMIT', 0, count)
local answer = {listed[#listed] or false}
for _, user in ipairs(listed) do
  if call('EXISTS', user_key(user)) == 1 then
    answer[#answer + 1] = user
  end
end
return answer
