-- One attempt at its entities: assigns each its effective time, counts it once, and reads every window, atomically.
--
-- KEYS  per entity two: its sorted set, score = effective time in us, member = '<cumulative count>:<cumulative sum>',
--       once an epoch of the entity's own began with ':<since>' behind it, then ':<time>' of each given up;
--       and the identity of (caller, transaction) at it: '<received_at>:<effective time>' and the same ':<since>';
--       then optionally the decision on (caller, transaction), a claim or a record
-- ARGV  the earlier of event_time and received_at, amount, received_at (us, minor units, us),
--       '1' to write or '0' to look, identity life, live history, most that an effective time may be ahead of
--       received_at (us), set expiry, identity expiry (ms), the payment's claim,
--       then per entity how many windows it has, and these (us)
-- Returns  {what stands as the decision,
--          per entity {effective time, duplicate 0/1, previous effective time or -1, since, count and sum per window}}
--
-- An effective time is strictly after the one before it. Where that would put it too far ahead of received_at, a clock
-- has jumped: the set is given up and counted anew. The same where the clock jumps to times that were given up, as it
-- does when it went back and is set right. A window is complete where it begins at since or later.
--
-- The first to come claims the decision. Whoever finds another claim, or a record, only looks: a body that conflicts
-- with the one that was decided counts nowhere.
--
-- Doubles hold microseconds since 1970 and sums of minor units exactly below 2^53.

-- Most sets are short: one read of so many entries holds all that windows may ask for.
local RECENT = 4

-- Times of what was given up that an entity remembers, the next to come first: a clock that goes back more often
-- before it comes forward again is past help.
local GIVEN_UP = 4

-- Looked up once: a payment calls them some sixty times.
local call, format, match, tonumber = redis.call, string.format, string.match, tonumber

local function integer(number)
  return format('%.0f', number)
end

local function parse(member)
  local count, sum = match(member, '^(%d+):(%d+)')
  return tonumber(count), tonumber(sum)
end

local happened, amount, received_at = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local write = ARGV[4] == '1'
local identity_life, live_history = tonumber(ARGV[5]), tonumber(ARGV[6])
local limit = received_at + tonumber(ARGV[7])

-- What members carry. epoch: what they carried so far; newest: time of the newest that is given up, 0 for none.
local function carried(since, newest, epoch)
  local parts = {integer(since)}
  if newest > limit then
    parts[2] = integer(newest)
  end
  for at in string.gmatch(match(epoch, '^:%d+(.*)$') or '', '%d+') do
    if tonumber(at) > limit and #parts <= GIVEN_UP then
      parts[#parts + 1] = at
    end
  end
  return ':' .. table.concat(parts, ':')
end

local function count_attempt(set, identity, first_window, last_window)
  local recent = call('ZREVRANGE', set, 0, RECENT - 1, 'WITHSCORES')
  local all_read = #recent < 2 * RECENT
  local times, counts, sums = {}, {}, {}
  for index = 1, #recent / 2 do
    times[index] = tonumber(recent[2 * index])
  end

  local function newest_at_or_before(score)
    for index = 1, #times do
      local at = times[index]
      if at <= score then
        if not counts[index] then
          counts[index], sums[index] = parse(recent[2 * index - 1])
        end
        return counts[index], sums[index], at
      end
    end
    if not all_read then
      local found = call('ZREVRANGEBYSCORE', set, integer(score), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
      if found[1] then
        local count, sum = parse(found[1])
        return count, sum, tonumber(found[2])
      end
    end
    return 0, 0, -1
  end

  local function count_at_or_before(score)
    if not all_read then
      return call('ZCOUNT', set, '-inf', integer(score))
    end
    local found = 0
    for index = 1, #times do
      if times[index] <= score then
        found = found + 1
      end
    end
    return found
  end

  local count, sum, previous = newest_at_or_before(math.huge)
  local epoch = recent[1] and match(recent[1], '^%d+:%d+(.*)$') or ''
  local since = epoch ~= '' and tonumber(match(epoch, '^:(%d+)')) or 0

  local effective, duplicate = nil, 0
  local seen = call('GET', identity)
  if seen then
    local first_received, first_effective, first_epoch = match(seen, '^(%d+):(%d+)(.*)$')
    if received_at - tonumber(first_received) < identity_life then
      effective, duplicate = tonumber(first_effective), 1
      if since ~= (tonumber(string.sub(first_epoch, 2)) or 0) then
        -- counted in a set that was given up: nothing of what it saw is known any more
        recent, times, all_read, since = {}, {}, true, effective + 1
      end
    end
  end

  if duplicate == 1 then
    count, sum = newest_at_or_before(effective)
    previous = select(3, newest_at_or_before(effective - 1))
  else
    effective = math.max(happened, previous + 1)
    local jumped = effective > limit
    local given_up = epoch ~= '' and tonumber(match(epoch, '^:%d+:(%d+)'))
    if given_up and given_up <= limit then
      -- a clock that goes on as before takes longer to come here than it once went back
      jumped = jumped or limit - previous >= given_up - since
      epoch = jumped and epoch or carried(since, 0, epoch)
    end
    if jumped then
      epoch = carried(limit + 1, previous, epoch)
      effective, since = happened, limit + 1
      recent, times, all_read = {}, {}, true
      count, sum, previous = 0, 0, -1
      if write then
        call('DEL', set)
      end
    end
    count, sum = count + 1, sum + amount
    if write then
      local at = integer(effective)
      call('ZADD', set, at, format('%.0f:%.0f', count, sum) .. epoch)
      -- the newest entry behind the horizon stays: it is what windows subtract from
      local old = count_at_or_before(effective - live_history)
      if old > 1 then
        call('ZREMRANGEBYRANK', set, 0, old - 2)
      end
      call('PEXPIRE', set, ARGV[8])
      local first = ARGV[3] .. ':' .. at
      call('SET', identity, since == 0 and first or first .. ':' .. integer(since), 'PX', ARGV[9])
    end
  end

  if previous <= effective - live_history then
    previous = -1
  end
  local reply = {effective, duplicate, previous, since}
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
  local claimed = write and call('SET', decision, ARGV[10], 'NX', 'PX', integer(identity_life / 1000))
  if not claimed then
    standing = call('GET', decision) or ''
    write = write and standing == ARGV[10]
  end
end

local replies, windows = {standing}, 11
for key = 1, #KEYS - 1, 2 do
  local last_window = windows + tonumber(ARGV[windows])
  replies[#replies + 1] = count_attempt(KEYS[key], KEYS[key + 1], windows + 1, last_window)
  windows = last_window + 1
end
return replies
