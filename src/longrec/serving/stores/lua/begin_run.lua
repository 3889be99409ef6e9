-- Note the server's run, where it is another one than the one noted, with how much had been written
-- before; and leave a gap in the ids of logs. Two writes, so that it is a transaction (redis_settings.py).
-- Arguments: the run. -> what is noted: the run, and how many numbered calls had written when it began.

local run = arguments(1)
local noted = call('GET', run_key) or ''
if noted:match('^(%S+) %d+$') ~= run then
  noted = string.format('%s %.0f', run, tonumber(call('GET', writes_key) or 0) or 0)
  call('SET', run_key, noted)
  if (call('GET', born_key) or ''):match('^%d+$') then
    call('INCRBY', born_key, ID_GAP)
  else
    call('SET', run_key, noted)
  end
end
return noted
