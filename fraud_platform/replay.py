"""Replay: a day of raw transactions through the online code path, held against the training set bit for bit.

What belongs here: driving the online store in processing order under a key space of its own, comparing. What does not:
what is reported (`replay_report`), any feature's arithmetic; whatever differs here differs in production.
"""

import asyncio
import uuid
from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from fraud_platform import processing, schema
from fraud_platform.currency import Rates
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, DAY
from fraud_platform.features.in_force import Span, spans
from fraud_platform.features.sequence import counted_order
from fraud_platform.features.snapshots import read_medians
from fraud_platform.features.training_set import TRAINING_ROW
from fraud_platform.features.vector import VectorBuilder
from fraud_platform.lake import Lake
from fraud_platform.online.packed import MERCHANT_VECTOR, USER_VECTOR, PackedView
from fraud_platform.online.shards import RedisClient, connect_redis, delete, scan
from fraud_platform.online.snapshot_load import SNAPSHOT_TABLES, load_snapshot_direct, loading_regions, read_loads
from fraud_platform.online.store import OnlineStore
from fraud_platform.online.warm import warm_velocity
from fraud_platform.replay_epochs import Epochs
from fraud_platform.replay_identity import (
    Identities,
    Identity,
    by_receipt,
    counted_before,
    identities_of,
    rows_of_region,
)
from fraud_platform.replay_report import SHOWN_DIFFERENCES, Difference, ReplayReport
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings


def spans_of(settings: Settings, lake: Lake, view: PackedView) -> list[Span]:
    """When each snapshot of a view was in force in each region, by the lake's tables and the ledgers of loads."""
    ttl = settings.online_ttl_days
    found = spans(lake.days(SNAPSHOT_TABLES[view.entity]), read_loads(lake, view), ttl)
    for region in loading_regions(lake):
        found += spans([], read_loads(lake, view, region), ttl, region)
    return found


def replay_day(settings: Settings, lake: Lake, day: date, redis_url: str) -> ReplayReport:
    """Replay what the settings' region saw of `day` against its rows of the training set. Raises MissingPartition when
    the day was not built.

    Keys are written under a prefix of their own and deleted afterwards; the live store is not touched.
    """
    prefix = f"replay:{day.isoformat()}:{uuid.uuid4().hex[:8]}:".encode()
    offline = rows_of_region(lake, tables.TRAINING_SET, day, TRAINING_ROW, settings.region)
    with connect_redis(redis_url) as redis_client:
        try:
            return asyncio.run(_replay(settings, lake, day, redis_client, redis_url, prefix, offline))
        finally:
            for master, keys in scan(redis_client, prefix):
                delete(master, keys)


async def _replay(
    settings: Settings,
    lake: Lake,
    day: date,
    redis_client: RedisClient,
    redis_url: str,
    prefix: bytes,
    offline: pa.Table,
) -> ReplayReport:
    report = ReplayReport(day)
    expected, builder = _Expected(lake, offline), VectorBuilder(CATALOGUE)
    start = int(np.datetime64(day, "us").astype(np.int64))
    now = [start]
    before = day - timedelta(days=1)
    raw = rows_of_region(lake, tables.RAW_TRANSACTIONS, day, schema.RAW_TRANSACTIONS, settings.region)
    known = counted_before(settings, lake, day, raw)
    warm_velocity(
        settings, lake, redis_client, before, now_us=start, key_prefix=prefix, also=[copy for _, copy in known]
    )
    loads = _Loads(settings, lake, redis_client, prefix, start)
    store = OnlineStore(redis_url, ttl_days=settings.online_ttl_days, prefix=prefix, clock=lambda: now[0])
    raw = counted_order(by_receipt(raw, {position for position, _ in known}))
    known_before = {copy[:2] for _, copy in known}
    rates = Rates.from_table(lake.read(tables.FX_RATES, day), settings.base_currency)
    identities = Identities(lake, day, settings.region)
    callers, duplicates = raw["caller"].to_pylist(), raw["is_duplicate"].to_pylist()
    sent = zip(callers, duplicates, _payments(raw, rates), strict=True)
    epochs = Epochs(settings, lake, redis_client, day, prefix)
    await store.open()
    try:
        for caller, duplicate, payment in tqdm(sent, f"replay {day}", total=raw.num_rows, unit="txn", disable=None):
            verdict = identities.verdict(caller, payment, is_duplicate=duplicate)
            if verdict != "ours":
                report.conflicts += verdict == "conflict"
                report.copies += verdict == "copy"
                report.elsewhere += verdict == "elsewhere"
                continue
            now[0] = payment.received_at
            loads.until(payment.received_at)
            epochs.until(caller, payment)
            online = await store.read(payment, caller=caller)
            identity = caller, payment.transaction_id
            if online.duplicate and (duplicate or identity not in known_before):
                report.duplicates += 1
                continue
            expected.compare(identity, builder.build(payment, online), report)
    finally:
        await store.close()
    report.unmatched += expected.left()
    return report


def _payments(raw: pa.Table, rates: Rates) -> Iterator[Transaction]:
    """Raw rows as the service would have made them from a request: clock rule, conversion and fingerprint again. What
    it decided keeps its amount, which stands at the rates of then."""
    for batch in raw.to_batches(max_chunksize=10_000):
        times = {name: batch.column(name).cast(pa.int64()).to_pylist() for name in ("timestamp", "received_at")}
        for index, row in enumerate(batch.to_pylist()):
            timestamp, received_at = times["timestamp"][index], times["received_at"][index]
            event_time, skew = processing.event_time(timestamp, received_at)
            yield Transaction(
                transaction_id=row["transaction_id"],
                user_id=row["user_id"],
                merchant_id=row["merchant_id"],
                amount=rates.known_in_base(row["amount_minor"], row["currency"])
                if row["decision_id"] is None
                else row["amount"],
                event_time=int(event_time),
                received_at=received_at,
                country=row["country"],
                user_country=row["user_country"],
                merchant_category=row["merchant_category"],
                channel=row["channel"],
                device_key=None if row["device_id"] is None else processing.device_key(row["device_id"]),
                latitude=row["latitude"],
                longitude=row["longitude"],
                clock_skew=bool(skew),
            )


class _Loads:
    """Loads each snapshot into the replay's key space when the clock reaches its recorded `visible_from`."""

    def __init__(self, settings: Settings, lake: Lake, redis_client: RedisClient, prefix: bytes, start: int) -> None:
        self._lake, self._redis, self._prefix = lake, redis_client, prefix
        self._ttl = settings.online_ttl_days * DAY // 1_000_000
        pending: list[tuple[int, PackedView, date]] = []
        for view in (USER_VECTOR, MERCHANT_VECTOR):
            # of the snapshots visible before the day only the last can be seen
            own = [span for span in spans_of(settings, lake, view) if span.region == settings.region]
            known = [(s.visible_from_us, view, s.snapshot) for s in own]
            before = [load for load in known if load[0] <= start]
            pending += before[-1:] + [load for load in known if start < load[0] < start + DAY]
        self._pending = sorted(pending, key=lambda load: (load[0], load[1].name), reverse=True)

    def until(self, now: int) -> None:
        """Perform the loads that were visible at `now`."""
        while self._pending and self._pending[-1][0] <= now:
            visible_from, view, snapshot = self._pending.pop()
            load_snapshot_direct(
                self._redis,
                self._lake,
                view,
                snapshot,
                now=lambda at=visible_from: at,  # type: ignore[misc]
                ttl_seconds=self._ttl,
                key_prefix=self._prefix,
                force=True,
            )


class _Expected:
    """The training set's vectors by transaction, and which of their values are mere defaults."""

    def __init__(self, lake: Lake, offline: pa.Table) -> None:
        columns = [offline.column(name).to_numpy(zero_copy_only=False) for name in CATALOGUE.names]
        self._vectors = np.column_stack(columns).astype(np.float32)
        self._row = {identity: i for i, identity in enumerate(identities_of(offline))}
        self._seen: set[Identity] = set()
        self._defaults = np.full_like(self._vectors, np.nan)
        zero = [i for i, feature in enumerate(CATALOGUE.features) if feature.cold_start == "zero"]
        for source in ("user", "merchant"):
            snapshots = offline.column(f"{source}_snapshot").to_pylist()
            medians = {day: read_medians(lake, day)[source] for day in set(snapshots) if day is not None}
            for index, snapshot in enumerate(snapshots):
                if snapshot is not None:
                    self._defaults[index, CATALOGUE.columns(source)] = medians[snapshot]
        self._defaults[:, zero] = 0.0

    def compare(self, identity: Identity, online: NDArray[np.float32], report: ReplayReport) -> None:
        """Hold one online vector against the training set and count what it shows."""
        if identity not in self._row or identity in self._seen:
            report.unmatched += 1
            return
        self._seen.add(identity)
        row = self._row[identity]
        offline = self._vectors[row]
        report.rows += 1
        null = np.isnan(online)
        report.non_null += ~null
        report.non_default += ~null & (online != self._defaults[row])
        same = (online.view(np.uint32) == offline.view(np.uint32)) | (null & np.isnan(offline))
        for position in np.flatnonzero(~same):
            name = CATALOGUE.names[position]
            report.differing[name] += 1
            if len(report.examples) < SHOWN_DIFFERENCES:
                report.examples.append(Difference(*identity, name, float(online[position]), float(offline[position])))

    def left(self) -> int:
        """Transactions of the training set that the replay never saw."""
        return len(self._row) - len(self._seen)
