-- One attempt at its entities: assigns each its effective time, counts it once, and reads every window, atomically.
--
-- KEYS  per entity two: its sorted set, score = effective time in us, member = '<cumulative count>:<cumulative sum>',
--       once an epoch of the entity's own began with ':<since>' behind it, then ':<time>' of each given up;
--       and the identity of (caller, transaction) at it: '<received_at>:<effective time>' and the same ':<since>';
--       then optionally the decision on (caller, transaction), a claim or a record
-- ARGV  the attempt, packed: the earlier of event_time and received_at, amount, received_at (us, minor units, us),
--       1 to write or 0 to look; the payment's claim; what is the same for every attempt, packed: identity life, live
--       history, most that an effective time may be ahead of received_at (us), then per entity how many windows it has,
--       and these, ascending (us); the format of that; set expiry, identity expiry, the claim's life (ms)
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

-- Looked up once: a payment calls them some thirty times.
local call, format, match, tonumber = redis.call, string.format, string.match, tonumber

local happened, amount, received_at, write = struct.unpack('<dddd', ARGV[1])
write = write == 1
local plan = {struct.unpack(ARGV[4], ARGV[3])}
local identity_life, live_history = plan[1], plan[2]
local limit = received_at + plan[3]

local function parse(member)
  local count, sum = match(member, '^(%d+):(%d+)')
  return tonumber(count), tonumber(sum)
end

-- What members carry. epoch: what they carried so far; newest: time of the newest that is given up, 0 for none.
local function carried(since, newest, epoch)
  local parts = {format('%d', since)}
  if newest > limit then
    parts[2] = format('%d', newest)
  end
  for at in string.gmatch(match(epoch, '^:%d+(.*)$') or '', '%d+') do
    if tonumber(at) > limit and #parts <= GIVEN_UP then
      parts[#parts + 1] = at
    end
  end
  return ':' .. table.concat(parts, ':')
end

-- The newest entry at or before a score behind the recent ones, which are not all there are: count, sum and time.
local function older(set, score)
  local found = call('ZREVRANGEBYSCORE', set, format('%d', score), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if found[1] then
    local count, sum = parse(found[1])
    return count, sum, tonumber(found[2])
  end
  return 0, 0, -1
end

local function newest(set, recent, all_read, score)
  for index = 2, #recent, 2 do
    if recent[index] <= score then
      local count, sum = parse(recent[index - 1])
      return count, sum, recent[index]
    end
  end
  if all_read then
    return 0, 0, -1
  end
  return older(set, score)
end

local function count_attempt(set, identity, first_window, last_window)
  -- members and times, the newest first
  local recent = call('ZREVRANGE', set, 0, RECENT - 1, 'WITHSCORES')
  local all_read = #recent < 2 * RECENT
  for index = 2, #recent, 2 do
    recent[index] = tonumber(recent[index])
  end

  local count, sum, previous, epoch, since = 0, 0, -1, '', 0
  if recent[1] then
    count, sum, epoch = match(recent[1], '^(%d+):(%d+)(.*)$')
    count, sum, previous = tonumber(count), tonumber(sum), recent[2]
    if epoch ~= '' then
      since = tonumber(match(epoch, '^:(%d+)'))
    end
  end

  local effective, duplicate = nil, 0
  local seen = call('GET', identity)
  if seen then
    local first_received, first_effective, first_epoch = match(seen, '^(%d+):(%d+)(.*)$')
    if received_at - tonumber(first_received) < identity_life then
      effective, duplicate = tonumber(first_effective), 1
      if since ~= (tonumber(string.sub(first_epoch, 2)) or 0) then
        -- counted in a set that was given up: nothing of what it saw is known any more
        recent, all_read, since = {}, true, effective + 1
      end
    end
  end

  if duplicate == 1 then
    count, sum = newest(set, recent, all_read, effective)
    previous = select(3, newest(set, recent, all_read, effective - 1))
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
      recent, all_read = {}, true
      count, sum, previous = 0, 0, -1
      if write then
        call('DEL', set)
      end
    end
    count, sum = count + 1, sum + amount
  end

  local reply = {effective, duplicate, previous > effective - live_history and previous or -1, since}
  -- windows ascend, so what is before each is what is before the last one, or older
  local index, before_count, before_sum, before = 0, 0, 0, math.huge
  for window = first_window, last_window do
    local score = effective - plan[window]
    if before > score then
      repeat
        index = index + 2
      until not recent[index] or recent[index] <= score
      if recent[index] then
        before_count, before_sum = parse(recent[index - 1])
        before = recent[index]
      elseif all_read then
        before_count, before_sum, before = 0, 0, -1
      else
        before_count, before_sum, before = older(set, score)
      end
    end
    reply[#reply + 1] = count - before_count
    reply[#reply + 1] = sum - before_sum
  end

  if write and duplicate == 0 then
    local at = format('%d', effective)
    call('ZADD', set, at, format('%d:%d', count, sum) .. epoch)
    local horizon, old = effective - live_history, 0
    if all_read then
      for entry = 2, #recent, 2 do
        old = recent[entry] <= horizon and old + 1 or old
      end
    elseif before >= 0 then
      -- else the longest window found nothing before it, and what is behind the horizon is before every window
      old = call('ZCOUNT', set, '-inf', format('%d', horizon))
    end
    -- the newest entry behind the horizon stays: it is what windows subtract from
    if old > 1 then
      call('ZREMRANGEBYRANK', set, 0, old - 2)
    end
    call('PEXPIRE', set, ARGV[5])
    local first = format('%d:%d', received_at, effective)
    call('SET', identity, since == 0 and first or first .. format(':%d', since), 'PX', ARGV[6])
  end
  return reply
end

local decision = #KEYS % 2 == 1 and KEYS[#KEYS]
local standing = ''
if decision then
  local claimed = write and call('SET', decision, ARGV[2], 'NX', 'PX', ARGV[7])
  if not claimed then
    standing = call('GET', decision) or ''
    write = write and standing == ARGV[2]
  end
end

local replies, windows = {standing}, 4
for key = 1, #KEYS - 1, 2 do
  local last_window = windows + plan[windows]
  replies[#replies + 1] = count_attempt(KEYS[key], KEYS[key + 1], windows + 1, last_window)
  windows = last_window + 1
end
return replies
