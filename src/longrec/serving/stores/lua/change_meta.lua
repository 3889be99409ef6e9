-- Arguments: what must stand there; what shall. -> whether it does, '1' or '0'.

local before, after = arguments(2)
if (call('GET', meta_key) or '') ~= before then
  return write('0')
end
write_later(meta_key, after)
return write('1')
