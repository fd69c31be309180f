"""`python -m benchmarks.kafka`: decisions per second through a real Kafka into the lake, by several consumers.

What belongs here: the shipper's producer, and consumers as processes, on a topic of ten partitions. What does not: the
spool, the service. Consumers wait, stopped, while the topic is filled; what counts is from when they go on until the
lake has all of it. Broker, producer and consumers share a machine, so processor time per record is what carries over.
"""

import argparse
import json
import math
import multiprocessing
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from msgspec.structs import replace
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fraud_platform.inference_log.broker import Message
from fraud_platform.inference_log.consumer import Consumer
from fraud_platform.inference_log.kafka import KafkaProducer, KafkaSource
from fraud_platform.inference_log.record import encode_record, vector_bytes
from fraud_platform.inference_log.shipper import BATCH
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from tests.integration.kafka_kit import RealKafka
from tests.record_kit import records

SOURCE = "kafka"
PARTITIONS = 10
OPTIONS = {"session.timeout.ms": "120000", "heartbeat.interval.ms": "500", "log_level": "3"}
"""Long enough to be stopped while the topic is filled."""
COMMIT_US = 1_000_000
"""A fifth of the usual, so that the last commit, which waits for company, adds a second at most."""
RATES = (1_000, 10_000, 100_000)
BUSY = 0.7
"""Of a core, what a consumer is planned to use."""


def made(count: int) -> list[Message]:
    """Decisions of many users, each with values of its own."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(min(count, 10_000), 50)).astype(np.float32)
    users = random.integers(0, 100_000, count)
    found = []
    for number, each in enumerate(records(count)):
        request = replace(each.request, user_id=f"user-{users[number]:07d}", merchant_id=f"merchant-{number % 5_000}")
        payload = encode_record(replace(each, request=request, vector=vector_bytes(vectors[number % len(vectors)])))
        found.append(Message(request.user_id.encode(), payload))
    return found


def consume(root: str, bootstrap: str, topic: str, name: str) -> None:
    """One consumer, until it is killed."""
    consumer = Consumer(
        SOURCE, KafkaSource(bootstrap, topic, OPTIONS), LogTable(Lake(root), name),
        clock=lambda: time.time_ns() // 1_000, failed=lambda *_: None, commit_us=COMMIT_US,
    )  # fmt: skip
    while True:
        consumer.step(0.2)


def through(bootstrap: str, messages: list[Message], consumers: int) -> dict[str, float]:
    """Fill a topic, then empty it by so many consumers."""
    topic, context = f"bench-{uuid.uuid4().hex[:8]}", multiprocessing.get_context("spawn")
    client = AdminClient({"bootstrap.servers": bootstrap})
    client.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
    with tempfile.TemporaryDirectory() as root:
        names = [f"consumer-{number}" for number in range(consumers)]
        processes = [context.Process(target=consume, args=(root, bootstrap, topic, name)) for name in names]
        try:
            for process in processes:
                process.start()
            table, source = LogTable(Lake(root)), KafkaSource(bootstrap, topic, OPTIONS)
            while {at.owner for at in table.committed().sources.get(SOURCE, {}).values()} != set(names):
                time.sleep(0.2)
            _all(processes, signal.SIGSTOP)
            send = _timed_send(bootstrap, topic, messages)
            before, began = _seconds(processes), time.perf_counter()
            _all(processes, signal.SIGCONT)
            while sum(source.lag(table.committed().offsets(SOURCE)).values()):
                time.sleep(0.1)
            seconds, used = time.perf_counter() - began, _seconds(processes) - before
            resident = max(psutil.Process(process.pid).memory_info().rss for process in processes)
            rows = sum(table.read(day, ["decision_id"]).num_rows for day in table.days())
            assert rows == len(messages), f"{rows} of {len(messages)} are in the lake"
            source.close()
        finally:
            for process in processes:
                process.kill()
                process.join()
    return send | {
        "consumers": consumers,
        "consumed_per_second": len(messages) / seconds,
        "consumer_us_per_record": used / len(messages) * 1e6,
        "resident_mb": resident / 1e6,
    }


def _timed_send(bootstrap: str, topic: str, messages: list[Message]) -> dict[str, float]:
    producer = KafkaProducer(bootstrap, topic, {})
    before, began = time.process_time(), time.perf_counter()
    for start in range(0, len(messages), BATCH):
        producer.send(messages[start : start + BATCH])
    seconds, used = time.perf_counter() - began, time.process_time() - before
    producer.close()
    return {"sent_per_second": len(messages) / seconds, "producer_us_per_record": used / len(messages) * 1e6}


def _all(processes: Sequence[BaseProcess], number: signal.Signals) -> None:
    for process in processes:
        assert process.pid is not None
        os.kill(process.pid, number)


def _seconds(processes: Sequence[BaseProcess]) -> float:
    times = [psutil.Process(process.pid).cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--consumers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where kafka.json goes")
    given = parser.parse_args()
    messages = made(given.records)
    size = sum(len(message.payload) for message in messages) / len(messages)
    with tempfile.TemporaryDirectory() as folder:
        broker = RealKafka(Path(folder))
        try:
            through(broker.bootstrap, messages[:10_000], 1)  # the broker's first records are slow
            found = [through(broker.bootstrap, messages, count) for count in given.consumers]
        finally:
            broker.kill()
    each = max(result["consumer_us_per_record"] for result in found)
    need: dict[str, Any] = {str(rate): math.ceil(rate * each / 1e6 / BUSY) for rate in RATES}
    _print(found, need, given.records, size, each)
    given.folder.mkdir(parents=True, exist_ok=True)
    result = {"records": given.records, "bytes": size, "partitions": PARTITIONS, "runs": found, "consumers": need}
    (given.folder / "kafka.json").write_text(json.dumps(result, indent=2))


def _print(found: list[dict[str, float]], need: dict[str, Any], count: int, size: float, each: float) -> None:
    title = f"{count:,} decisions of {size:,.0f} bytes, {PARTITIONS} partitions"
    shown = Table("consumers", "sent/s", "µs each", "into the lake/s", "µs each", "MB", title=title, box=SIMPLE_HEAD)
    for run in found:
        shown.add_row(
            f"{run['consumers']:.0f}", f"{run['sent_per_second']:,.0f}", f"{run['producer_us_per_record']:.1f}",
            f"{run['consumed_per_second']:,.0f}", f"{run['consumer_us_per_record']:.1f}", f"{run['resident_mb']:,.0f}",
        )  # fmt: skip
    plan = Table("decisions/s", f"consumers at {each:.0f} µs a record, {BUSY:.0%} of a core each", box=SIMPLE_HEAD)
    for rate, consumers in need.items():
        plan.add_row(f"{int(rate):,}", str(consumers))
    console = Console(width=110)
    console.print(shown)
    console.print(plan)


if __name__ == "__main__":
    main()
