-- What our program meets on a Brilliant Frame, acted out for real Lua: a clock that ticks by a tenth of a second per
-- turn, a radio that is busy every third time, and messages that arrive while the program sleeps. Prints what was done.
local sent, callback, tap, turn = {}, nil, nil, 0
local arrives = {
  [3] = '\x20\0\6TAb\nc\n', [6] = '\x21\0\2B\4', [9] = '\x22\0\1Q', [12] = '\x23\0\7C\3\1\0\0\140\0',
  [15] = '\x24\0\2M\1', [20] = '\x25\0\2M\0', [23] = '\x26\0\2I\1', [25] = '\x27\0\2H\20',
  [27] = '\x28\0\12P\0\1\0\2\0\8\xff', [28] = '\x28\xff\xff\xff\xff', [35] = '\x29\0\1Z', [40] = '\x2a\0\1T',
}
local pictures = 0
frame = {
  FIRMWARE_VERSION = 'v1',
  bluetooth = {
    max_length = function() return 243 end,
    is_connected = function() turn = turn + 1 return turn < 60 end,
    send = function(s)
      if turn % 3 == 0 then error('bluetooth is busy') end
      assert(#s <= 243)
      sent[#sent + 1] = s
    end,
    receive_callback = function(f) callback = f end,
  },
  display = {
    text = function(s, x, y) print('text', s, x, y) end,
    show = function() print('show') end,
    bitmap = function(x, y, w, colours, offset, data) print('bitmap', x, y, w, colours, offset, #data) end,
    set_brightness = function(step) print('brightness', step) end,
  },
  microphone = {
    start = function(t) print('microphone', t.sample_rate, t.bit_depth) end,
    stop = function() print('microphone off') end,
    read = function(n) assert(n % 2 == 0) return string.rep('x', n) end,
  },
  camera = {
    auto = function() end,
    capture = function(t) print('capture', t.resolution, t.quality, t.pan) end,
    image_ready = function() return true end,
    read = function(n) pictures = pictures + 1 if pictures < 4 then return string.rep('j', n) end end,
  },
  imu = {
    tap_callback = function(f) tap = f end,
    raw = function() return {compass = {x = 1, y = 2, z = 3}, accelerometer = {x = 0, y = 0, z = 4096}} end,
    direction = function() return {pitch = turn > 30 and 30.5 or 0.0} end,
  },
  battery_level = function() return 87.6 end,
  time = {utc = function() return turn * .1 end},
  sleep = function()
    if arrives[turn] then callback(arrives[turn]) end
    if turn == 21 then tap() tap() end
  end,
}
assert(load(io.read('a')))()
for _, s in ipairs(sent) do
  print('sent', (s:gsub('.', function(c) return string.format('%02x', c:byte()) end)))
end
