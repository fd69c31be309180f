"""Consumers that share one Kafka topic, each a process; of few imports, since each is started anew.

What belongs here: what such a process does, and starting, pausing and ending it. What does not: what must hold then.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fraud_platform.inference_log.broker import BrokerError
from fraud_platform.inference_log.consumer import Consumer
from fraud_platform.inference_log.kafka import KafkaSource
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake

SOURCE = "kafka"
OPTIONS = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}
SESSION_SECONDS = 6.0
COMMIT_US = 300_000


def consume(root: str, bootstrap: str, topic: str, writer: str) -> None:
    """Fill the lake until asked to end."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    consumer = Consumer(
        SOURCE, KafkaSource(bootstrap, topic, OPTIONS), LogTable(Lake(root), writer),
        clock=lambda: time.time_ns() // 1_000, failed=lambda *_: None, commit_us=COMMIT_US,
    )  # fmt: skip
    while not ended:
        try:
            consumer.step(0.1)
        except (BrokerError, OSError):
            time.sleep(0.1)
    with suppress(BrokerError, OSError):  # another has it
        consumer.close()


class Members:
    """Named consumers of one topic and lake."""

    def __init__(self, root: str, bootstrap: str, topic: str) -> None:
        self._arguments = (root, bootstrap, topic)
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[str, multiprocessing.process.BaseProcess] = {}

    def start(self, *names: str) -> None:
        """Start some more."""
        for name in names:
            self._processes[name] = self._context.Process(target=consume, args=(*self._arguments, name))
            self._processes[name].start()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one."""
        pid = self._processes[name].pid
        assert pid is not None
        os.kill(pid, number)

    def end(self, name: str) -> None:
        """Have one end in order."""
        self.signal(name, signal.SIGTERM)
        self._processes[name].join(30)
        assert self._processes[name].exitcode == 0, name

    def end_now(self) -> None:
        """End all, paused ones too."""
        for process in self._processes.values():
            process.kill()
            process.join()


@contextmanager
def members(root: str, bootstrap: str, topic: str) -> Iterator[Members]:
    """Members that end with the test."""
    made = Members(root, bootstrap, topic)
    try:
        yield made
    finally:
        made.end_now()
