-- Delete what a model has of users.
-- Arguments: digest; users.

local digest, keys = arguments(1), {}
while arguments_left() do
  add_model_keys(keys, digest, log_of(arguments(1)) or '')
end
call('UNLINK', unpack(keys))
return ''
