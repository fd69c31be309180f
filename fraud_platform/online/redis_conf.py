"""The embedded Redis' configuration: where it listens, what it keeps, how much it takes, what it may be asked.

What belongs here: the file's text. What does not: starting the server (`embedded_redis`). It is read by Redis 6.2 and
later and by Valkey, and written anew at every start.
"""

from pathlib import Path

_TEXT = """\
# no port: the socket's folder lets this user in alone
port 0
unixsocket "{socket}"
unixsocketperm 600
dir "{folder}"
pidfile "{folder}/redis.pid"
logfile "{folder}/redis.log"
daemonize yes
# what the platform asks, and nothing that writes files of its own, loads code or turns the server into another
user default on nopass ~* &* -@all +@read +@write +@connection +@transaction +eval +evalsha +script -@dangerous \
+info +bgrewriteaof
# every write reaches the disk within a second; snapshots would fork the whole store for nothing
save ""
appendonly yes
appendfsync everysec
# full, it takes no more writes, and payments are decided without it; what it forgot by itself would be counted wrongly
maxmemory {maxmemory_mb}mb
maxmemory-policy noeviction
# packed vectors are up to 256 bytes: they stay in the compact hash encoding (Redis 7 knows this name as an alias)
hash-max-ziplist-value 256
"""


def configuration(folder: Path, socket: Path, maxmemory_mb: int) -> str:
    """Text of redis.conf. folder: absolute; the server works in it."""
    return _TEXT.format(folder=folder, socket=socket, maxmemory_mb=maxmemory_mb)
