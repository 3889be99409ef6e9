-- Take a user that is not there any more from the list of users.
-- Arguments: user.

local user = arguments(1)
if call('EXISTS', user_key(user)) == 0 then
  call('ZREM', users_key, user)
end
return ''
