"""`python -m benchmarks.footprint`: bytes per user, per attempt and per row, of real servers and real files.

What belongs here: loading and weighing. What does not: what follows from it (`fraud_platform.capacity`). Rows in Redis
are weighed by its resident memory, what attempts leave by what it says it uses.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psycopg
import pyarrow as pa
import redis

from feature_repo.store import apply
from fraud_platform.capacity.figures import FOOTPRINT, Footprint
from fraud_platform.decision.request import Payment
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.history import build_history
from fraud_platform.inference_log.record import DecisionRecord, ServedBy, encode_record, vector_bytes
from fraud_platform.inference_log.spool import SpoolWriter, segments
from fraud_platform.inference_log.table import TABLE, LogTable, rows
from fraud_platform.lake import Lake, open_lake
from fraud_platform.online.attempt import Attempt
from fraud_platform.online.cold_writer import cold_table, write_cold
from fraud_platform.online.decision_key import LIFE_MS, decision_key
from fraud_platform.online.embedded_postgres import ensure_postgres, stop_postgres
from fraud_platform.online.embedded_redis import ensure_redis, stop_redis
from fraud_platform.online.packed import MERCHANT_VECTOR, PROJECT, USER_VECTOR, PackedView
from fraud_platform.online.shards import delete, scan, used_memory
from fraud_platform.online.snapshot_load import packed_snapshot
from fraud_platform.online.standalone import load_scripts
from fraud_platform.online.wire import Wire
from fraud_platform.online.writer import write_packed
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings

DAYS, BATCH, TTL_SECONDS = 12, 2_000, 7 * 86_400


def main() -> None:
    """Weigh, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("var/bench"), help="where footprint.json goes")
    parser.add_argument("--users", type=int, default=200_000, help="users in Redis and PostgreSQL")
    options = parser.parse_args()
    with _home() as settings:
        figures = weigh(settings, options.users)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / FOOTPRINT
    path.write_text(json.dumps(msgspec.to_builtins(figures) | {"users": options.users}, indent=2) + "\n")
    for name, value in msgspec.to_builtins(figures).items():
        print(f"{name:24}{value:10,.1f}")
    print(path)


@contextmanager
def _home() -> Iterator[Settings]:
    """Settings of a home that goes with the block, with servers of its own."""
    folder = Path(tempfile.mkdtemp(prefix="footprint-"))
    settings = Settings(home=folder, history_days=DAYS, _env_file=None)
    try:
        yield settings
    finally:
        stop_redis(settings)
        stop_postgres(settings)
        shutil.rmtree(folder)


def weigh(settings: Settings, users: int) -> Footprint:
    """Build a short history of the simulated bank, load it `users` strong, and weigh what that takes."""
    lake = open_lake(settings)
    build_history(settings, lake, datetime.now(UTC))
    day = lake.days(tables.TRAINING_SET)[-1]
    snapshot = packed_snapshot(lake, USER_VECTOR, day)
    records = _records(lake)
    with redis.Redis.from_url(ensure_redis(settings)) as client:
        user_bytes = _rows(client, USER_VECTOR, many(snapshot, USER_VECTOR, users))
        merchants = many(packed_snapshot(lake, MERCHANT_VECTOR, day), MERCHANT_VECTOR, users // 4)
        merchant_bytes = _rows(client, MERCHANT_VECTOR, merchants)
        before = used_memory(client)
        asyncio.run(attempts(ensure_redis(settings), users))
        both = (used_memory(client) - before) / users
        for master, keys in scan(client, b"fraud:seen:"):
            delete(master, keys)
        _settled(client)
        sets = (used_memory(client) - before) / users
        decision_bytes = _decisions(client, records)
    return Footprint(
        redis_user_bytes=user_bytes,
        redis_merchant_bytes=merchant_bytes,
        redis_velocity_bytes=sets,
        redis_identity_bytes=both - sets,
        redis_decision_bytes=decision_bytes,
        postgres_user_bytes=_cold(settings, many(snapshot, USER_VECTOR, users)),
        spool_record_bytes=_spool(settings, records),
        log_record_bytes=_log(lake, records),
        transaction_bytes=sum(_per_row(lake, name) for name in (tables.RAW_TRANSACTIONS, tables.TRAINING_SET)),
        snapshot_user_bytes=_per_row(lake, tables.USER_FEATURES),
    )


def many(packed: pa.Table, view: PackedView, count: int) -> pa.Table:
    """A snapshot's rows, repeated under identifiers of 12 characters."""
    times = -(-count // packed.num_rows)
    whole = pa.concat_tables([packed] * times).slice(0, count).combine_chunks()
    names = pa.array([f"{view.entity[0]}{number:011d}" for number in range(count)])
    return whole.set_column(whole.schema.get_field_index(view.join_key), view.join_key, names)


def _rows(client: redis.Redis, view: PackedView, table: pa.Table) -> float:
    before = resident(client)
    write_packed(client, PROJECT, view, table, ttl_seconds=TTL_SECONDS)
    return (resident(client) - before) / int(table.num_rows)


def resident(client: redis.Redis) -> int:
    """Redis' resident memory, bytes, without the buffer that it keeps for rewriting its file."""
    memory: Any = client.info("memory")
    return int(memory["used_memory_rss"]) - int(memory["mem_clients_normal"]) - int(memory["mem_aof_buffer"])


def _settled(client: redis.Redis) -> None:
    """Wait until what was unlinked has been freed."""
    while True:
        memory: Any = client.info("memory")
        if not memory["lazyfree_pending_objects"]:
            return
        time.sleep(0.05)


async def attempts(url: str, count: int) -> None:
    """One attempt of each user at a merchant of its own, as serving sends it."""
    wire = Wire(url, deadline=30.0, prepare=load_scripts)
    await wire.open()
    now = time.time_ns() // 1_000
    for first in range(0, count, BATCH):
        payload, replies = [], 0
        for number in range(first, min(first + BATCH, count)):
            payment = Transaction(
                transaction_id=f"t-{number:016d}", user_id=f"u{number:011d}", merchant_id=f"m{number:011d}",
                amount=4_250 + number % 1_000, event_time=now + number, received_at=now + number,
            )  # fmt: skip
            calls = Attempt(payment, "default", b"", True, b"").calls()
            payload += [each.payload for each in calls]
            replies += len(calls)
        answers = await wire.send(b"".join(payload), replies)
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        if refused:
            raise refused[0]
    await wire.close()


def _decisions(client: redis.Redis, records: list[tuple[DecisionRecord, bytes]]) -> float:
    before = used_memory(client)
    with client.pipeline(transaction=False) as pipe:
        for record, payload in records:
            pipe.set(decision_key("default", record.request.transaction_id), payload, px=LIFE_MS)
        pipe.execute()
    return (used_memory(client) - before) / len(records)


def _cold(settings: Settings, table: pa.Table) -> float:
    apply(settings, cold=True)
    with psycopg.connect(ensure_postgres(settings)) as connection:
        write_cold(connection, PROJECT, USER_VECTOR, table)
        found = connection.execute("SELECT pg_total_relation_size(%s)", (cold_table(PROJECT, USER_VECTOR),)).fetchone()
    assert found is not None
    return int(found[0]) / int(table.num_rows)


def _records(lake: Lake) -> list[tuple[DecisionRecord, bytes]]:
    """The last days' payments as the service would have recorded them, with the vectors that it would have scored."""
    made: list[tuple[DecisionRecord, bytes]] = []
    for day in lake.days(tables.TRAINING_SET)[-3:]:
        known = {row["transaction_id"]: row for row in lake.read(tables.TRAINING_SET, day).to_pylist()}
        for row in lake.read(tables.RAW_TRANSACTIONS, day).to_pylist():
            if not row["is_duplicate"]:
                record = _record(row, known[row["transaction_id"]], len(made))
                made.append((record, encode_record(record)))
    return made


def _record(row: dict[str, Any], trained: dict[str, Any], number: int) -> DecisionRecord:
    received = int(row["received_at"].timestamp() * 1e6)
    names = ("transaction_id", "user_id", "merchant_id", "amount_minor", "currency", "country", "merchant_category",
             "channel", "device_id", "user_country", "latitude", "longitude")  # fmt: skip
    payment = Payment(timestamp=received, **{name: row[name] for name in names})
    return DecisionRecord(
        schema_version=1,
        decision_id=uuid.uuid4().hex,
        caller="default",
        request_hash=payment.content_hash(),
        request=payment,
        received_at=received,
        amount=row["amount"],
        event_time=received,
        clock_skew=False,
        user_effective_time=trained["user_effective_time"],
        merchant_effective_time=trained["merchant_effective_time"],
        catalogue_hash=CATALOGUE.hash,
        vector=vector_bytes(np.array([trained[name] for name in CATALOGUE.names], np.float32)),
        user_snapshot=str(trained["user_snapshot"]),
        merchant_snapshot=str(trained["merchant_snapshot"]),
        epoch="0" * 32,
        complete_since=0,
        served_by=ServedBy(user_features="redis", merchant_features="redis", model="champion"),
        model_version="fraud-detector/7",
        scorer_hash="f" * 64,
        policy_version=1,
        threshold=0.7,
        review_threshold=0.4,
        score=1 / (number + 3),
        decision="allow",
        reason="score_below_threshold",
        latency_us=1_000 + number % 3_000,
    )


def _spool(settings: Settings, records: list[tuple[DecisionRecord, bytes]]) -> float:
    writer = SpoolWriter(settings.home, "footprint")
    for record, payload in records:
        writer.append(record.day, payload)
    writer.close()
    return sum(path.stat().st_size for path in segments(settings.home)) / len(records)


def _log(lake: Lake, records: list[tuple[DecisionRecord, bytes]]) -> float:
    table = LogTable(lake)
    table.commit(rows(records), {})
    merged = sum(table.merge(day) for day in table.days())
    return sum(lake.size(TABLE, day)[1] for day in table.days()) / merged


def _per_row(lake: Lake, table: str) -> float:
    """Parquet bytes per row over the days that have rows."""
    sizes = [lake.size(table, day) for day in lake.days(table)]
    return sum(size for _, size in sizes) / max(1, sum(count for count, _ in sizes))


if __name__ == "__main__":
    main()
