-- Puts recorded history before what an entity's sorted set already holds; running it again changes nothing.
--
-- KEYS[1]  sorted set of the entity, as velocity.lua keeps it
-- ARGV     key expiry (ms), what members carry of the entity's epoch, then score, cumulative count, cumulative sum of
--          each entry, ascending, counted from 0

local function integer(number)
  return string.format('%.0f', number)
end

local epoch = ARGV[2]
local live = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local first = math.huge
if live[1] then
  -- a set that was trimmed or seeded before does not begin with its entity's first attempt: its history is there;
  -- and history of one epoch is none of another's
  if epoch ~= '' or string.match(live[1], '^1:%d+$') == nil then
    return 0
  end
  first = tonumber(live[2])
end

local added, count, sum = 0, 0, 0
for index = 3, #ARGV, 3 do
  if tonumber(ARGV[index]) < first then
    count, sum = tonumber(ARGV[index + 1]), tonumber(ARGV[index + 2])
    added = added + 1
  end
end
if added == 0 then
  return 0
end

redis.call('DEL', KEYS[1])
for index = 3, added * 3, 3 do
  redis.call('ZADD', KEYS[1], ARGV[index], ARGV[index + 1] .. ':' .. ARGV[index + 2] .. epoch)
end
for index = 1, #live, 2 do
  local live_count, live_sum = string.match(live[index], '^(%d+):(%d+)$')
  redis.call('ZADD', KEYS[1], live[index + 1], integer(live_count + count) .. ':' .. integer(live_sum + sum))
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return added
