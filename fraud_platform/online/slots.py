"""Hash slots of a Redis Cluster: which of its 16,384 parts a key belongs to.

What belongs here: the arithmetic of keys. What does not: who serves a slot (`cluster`, `shards`). Source: the Redis
Cluster specification, "Key distribution model" and "Hash tags".
"""

from binascii import crc_hqx
from functools import cache

SLOTS = 16_384


def slot(key: bytes) -> int:
    """The slot of a key: CRC16 (XMODEM) of its hash tag if it has one, else of all of it."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


@cache
def tags() -> tuple[bytes, ...]:
    """A short text for each slot whose slot it is: in braces it puts a key there. Takes 0.1 s the first time."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < SLOTS:
        text = b"%d" % number
        found.setdefault(crc_hqx(text, 0) % SLOTS, text)
        number += 1
    return tuple(found[each] for each in range(SLOTS))
