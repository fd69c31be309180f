"""Identity: one decision per (caller, transaction_id) for 24 hours, kept in Redis.

What belongs here: the key, keeping and finding a decision. What does not: what makes two bodies equal (`request`).
"""

from redis.asyncio import Redis

from fraud_platform.inference_log.record import DecisionRecord, decode_record, encode_record

KEPT_SECONDS = 24 * 3600


class Decisions:
    """The decisions of the last 24 hours. `prefix` stands before every key; replay has its own."""

    def __init__(self, redis: Redis, prefix: str = "") -> None:
        self._redis = redis
        self._prefix = prefix

    def _key(self, caller: str, transaction_id: str) -> str:
        if ":" in caller:
            raise ValueError(f"a caller's name holds no colon, or two callers could share a key: {caller}")
        return f"{self._prefix}fraud:decision:{caller}:{transaction_id}"

    async def find(self, caller: str, transaction_id: str) -> DecisionRecord | None:
        """The decision that stands, or None. Raises redis.RedisError."""
        payload = await self._redis.get(self._key(caller, transaction_id))
        return None if payload is None else decode_record(payload)

    async def settle(self, record: DecisionRecord) -> DecisionRecord:
        """Make this the decision unless another came first; returns the one that stands. Raises redis.RedisError."""
        key = self._key(record.caller, record.request.transaction_id)
        payload = encode_record(record)
        while not await self._redis.set(key, payload, nx=True, ex=KEPT_SECONDS):
            standing = await self._redis.get(key)
            if standing is not None:
                return decode_record(standing)
            # it expired between the two commands: the key is free again
        return record
