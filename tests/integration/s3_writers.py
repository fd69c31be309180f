"""Processes that write the log of one lake beside each other; of few imports, since each is started anew.

What belongs here: what such a process does. What does not: what must hold of the lake then.
"""

import os
import signal
import time
from contextlib import suppress

from fraud_platform.inference_log import consumer as consumer_module
from fraud_platform.inference_log.consumer import Consumer
from fraud_platform.inference_log.record import encode_record
from fraud_platform.inference_log.redis_stream import RedisStream
from fraud_platform.inference_log.table import LogTable, rows
from fraud_platform.lake import Lake
from tests.record_kit import DAY, records

STREAM = "log"


def machine_clock() -> int:
    """UTC microseconds."""
    return time.time_ns() // 1_000


def consume(root: str, redis_url: str, writer: str, silent_us: int) -> None:
    """A consumer of its own process, as if of its own machine, until it is asked to end."""
    consumer_module.SILENT_US = silent_us
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    consumer = Consumer(
        "redis", RedisStream(redis_url, STREAM), LogTable(Lake(root), writer),
        clock=machine_clock, failed=lambda *_: None, commit_us=20_000,
    )  # fmt: skip
    _say_started(root)
    while not ended:
        try:
            consumer.step(0.05)
        except OSError:
            time.sleep(0.01)
    with suppress(OSError):  # another has it
        consumer.close()


def commit_each(root: str, first: int, count: int) -> None:
    """Commit decisions of its own one by one, and the offsets of a source of its own."""
    table = LogTable(Lake(root))
    _say_started(root)
    while len(Lake(root).documents("started")) < 4:
        time.sleep(0.01)
    for each in records(count, first=first):
        table.commit(rows([(each, encode_record(each))]), {f"source-{first}": {"0": each.decision_id}})


def merge(root: str) -> None:
    """Merge the day again and again, in a process of its own, until killed."""
    _say_started(root)
    while True:
        LogTable(Lake(root)).merge(DAY)


def _say_started(root: str) -> None:
    Lake(root).write_document(f"started/{os.getpid()}", b"")
