-- One attempt at its entities: assigns each its effective time, counts it once, and reads every window, atomically.
--
-- KEYS  per entity two: its sorted set, score = effective time in us, member = '<cumulative count>:<cumulative sum>',
--       and the identity of (caller, transaction) at it: '<received_at>:<effective time>';
--       then optionally the decision on (caller, transaction), a claim or a record
-- ARGV  event_time, amount, received_at (us, minor units, us), '1' to write or '0' to look,
--       identity life, live history (us), set expiry, identity expiry (ms), the payment's claim,
--       then per entity how many windows it has, and these (us)
-- Returns  {what stands as the decision,
--          per entity {effective time, duplicate 0/1, previous effective time or -1, count and sum per window}}
--
-- The first to come claims the decision. Whoever finds another claim, or a record, only looks: a body that conflicts
-- with the one that was decided counts nowhere.
--
-- Doubles hold microseconds since 1970 and sums of minor units exactly below 2^53.

-- Most sets are short: one read of so many entries holds all that windows may ask for.
local RECENT = 4

local function integer(number)
  return string.format('%.0f', number)
end

local function parse(member)
  local count, sum = string.match(member, '^(%d+):(%d+)$')
  return tonumber(count), tonumber(sum)
end

local event_time, amount, received_at = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local write = ARGV[4] == '1'
local identity_life, live_history = tonumber(ARGV[5]), tonumber(ARGV[6])

local function count_attempt(set, identity, first_window, last_window)
  local recent = redis.call('ZREVRANGE', set, 0, RECENT - 1, 'WITHSCORES')
  local all_read = #recent < 2 * RECENT
  local times = {}
  for index = 2, #recent, 2 do
    times[#times + 1] = tonumber(recent[index])
  end

  local function newest_at_or_before(score)
    for index, at in ipairs(times) do
      if at <= score then
        local count, sum = parse(recent[2 * index - 1])
        return count, sum, at
      end
    end
    if not all_read then
      local found = redis.call('ZREVRANGEBYSCORE', set, integer(score), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
      if found[1] then
        local count, sum = parse(found[1])
        return count, sum, tonumber(found[2])
      end
    end
    return 0, 0, -1
  end

  local function count_at_or_before(score)
    if not all_read then
      return redis.call('ZCOUNT', set, '-inf', integer(score))
    end
    local found = 0
    for _, at in ipairs(times) do
      if at <= score then
        found = found + 1
      end
    end
    return found
  end

  local effective, duplicate = nil, 0
  local seen = redis.call('GET', identity)
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
      local at = integer(effective)
      redis.call('ZADD', set, at, string.format('%.0f:%.0f', count, sum))
      -- the newest entry behind the horizon stays: it is what windows subtract from
      local old = count_at_or_before(effective - live_history)
      if old > 1 then
        redis.call('ZREMRANGEBYRANK', set, 0, old - 2)
      end
      redis.call('PEXPIRE', set, ARGV[7])
      redis.call('SET', identity, ARGV[3] .. ':' .. at, 'PX', ARGV[8])
    end
  end

  if previous <= effective - live_history then
    previous = -1
  end
  local reply = {effective, duplicate, previous}
  for index = first_window, last_window do
    local before_count, before_sum = newest_at_or_before(effective - tonumber(ARGV[index]))
    reply[#reply + 1] = count - before_count
    reply[#reply + 1] = sum - before_sum
  end
  return reply
end

local decision = #KEYS % 2 == 1 and KEYS[#KEYS]
local standing = ''
if decision then
  local claimed = write and redis.call('SET', decision, ARGV[9], 'NX', 'PX', integer(identity_life / 1000))
  if not claimed then
    standing = redis.call('GET', decision) or ''
    write = write and standing == ARGV[9]
  end
end

local replies, windows = {standing}, 10
for key = 1, #KEYS - 1, 2 do
  local last_window = windows + tonumber(ARGV[windows])
  replies[#replies + 1] = count_attempt(KEYS[key], KEYS[key + 1], windows + 1, last_window)
  windows = last_window + 1
end
return replies
