-- One attempt of one entity: assigns its effective time, counts it once, and reads every window, atomically.
--
-- KEYS[1]  sorted set of the entity: score = effective time in us, member = '<cumulative count>:<cumulative sum>'
-- KEYS[2]  identity of (caller, transaction) at this entity: '<received_at>:<effective time>'
-- KEYS[3]  optional: the decision on (caller, transaction), a claim or a record
-- ARGV     event_time, amount, received_at (us, minor units, us), '1' to write or '0' to look,
--          identity life, live history (us), set expiry, identity expiry (ms), the payment's claim, then the windows (us)
-- Returns  {effective time, duplicate 0/1, previous effective time or -1, what stands at KEYS[3], count and sum per
--          window}
--
-- The first to come claims the decision. Whoever finds another claim, or a record, only looks: a body that conflicts
-- with the one that was decided counts nowhere.
--
-- Doubles hold microseconds since 1970 and sums of minor units exactly below 2^53.

local RECENT = 4

local function integer(number)
  return string.format('%.0f', number)
end

local function parse(member)
  local count, sum = string.match(member, '^(%d+):(%d+)$')
  return tonumber(count), tonumber(sum)
end

-- Most sets are short: one read holds all that windows may ask for.
local recent = redis.call('ZREVRANGE', KEYS[1], 0, RECENT - 1, 'WITHSCORES')
local all_read = #recent < 2 * RECENT

local function newest_at_or_before(score)
  local found = nil
  for index = 2, #recent, 2 do
    if tonumber(recent[index]) <= score then
      found = {recent[index - 1], recent[index]}
      break
    end
  end
  if not found and not all_read then
    found = redis.call('ZREVRANGEBYSCORE', KEYS[1], integer(score), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  end
  if not found or not found[1] then
    return 0, 0, -1
  end
  local count, sum = parse(found[1])
  return count, sum, tonumber(found[2])
end

local function count_at_or_before(score)
  if not all_read then
    return redis.call('ZCOUNT', KEYS[1], '-inf', integer(score))
  end
  local found = 0
  for index = 2, #recent, 2 do
    if tonumber(recent[index]) <= score then
      found = found + 1
    end
  end
  return found
end

local event_time, amount, received_at = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local write = ARGV[4] == '1'
local identity_life, live_history = tonumber(ARGV[5]), tonumber(ARGV[6])

local standing = ''
if KEYS[3] then
  local claimed = write and redis.call('SET', KEYS[3], ARGV[9], 'NX', 'PX', integer(identity_life / 1000))
  if not claimed then
    standing = redis.call('GET', KEYS[3]) or ''
    write = write and standing == ARGV[9]
  end
end

local effective, duplicate = nil, 0
local seen = redis.call('GET', KEYS[2])
if seen then
  local first_received, first_effective = string.match(seen, '^(%d+):(%d+)$')
  if received_at - tonumber(first_received) < identity_life then
    effective, duplicate = tonumber(first_effective), 1
  end
end

local count, sum, previous
if duplicate == 1 then
  count, sum = newest_at_or_before(effective)
  previous = select(3, newest_at_or_before(effective - 1))
else
  count, sum, previous = newest_at_or_before(math.huge)
  effective = math.max(event_time, previous + 1)
  count, sum = count + 1, sum + amount
  if write then
    redis.call('ZADD', KEYS[1], integer(effective), integer(count) .. ':' .. integer(sum))
    -- the newest entry behind the horizon stays: it is what windows subtract from
    local old = count_at_or_before(effective - live_history)
    if old > 1 then
      redis.call('ZREMRANGEBYRANK', KEYS[1], 0, old - 2)
    end
    redis.call('PEXPIRE', KEYS[1], ARGV[7])
    redis.call('SET', KEYS[2], integer(received_at) .. ':' .. integer(effective), 'PX', ARGV[8])
  end
end

if previous <= effective - live_history then
  previous = -1
end
local reply = {effective, duplicate, previous, standing}
for index = 10, #ARGV do
  local before_count, before_sum = newest_at_or_before(effective - tonumber(ARGV[index]))
  reply[#reply + 1] = count - before_count
  reply[#reply + 1] = sum - before_sum
end
return reply
