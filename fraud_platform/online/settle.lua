-- Makes a record the decision on a payment unless another record stands.
--
-- KEYS[1]  the decision: absent, a claim, or a record
-- ARGV     the record, expiry (ms), what every claim begins with, a record that it replaces if that one stands, or ''
-- Returns  the record that stands, or nil when it is the one given

local standing = redis.call('GET', KEYS[1])
if standing and standing ~= ARGV[4] and string.sub(standing, 1, #ARGV[3]) ~= ARGV[3] then
  return standing
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
