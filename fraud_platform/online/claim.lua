-- Claims a payment for the first who decides it, where the decision is not on the server that counts the payment.
--
-- KEYS[1]  the decision: absent, a claim, or a record
-- ARGV     the payment's claim, expiry (ms)
-- Returns  what stood there before, or '' when it is now claimed

local standing = redis.call('GET', KEYS[1])
if standing then
  return standing
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''
