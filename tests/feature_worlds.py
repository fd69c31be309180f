"""Small worlds of transactions and labels, and the platform's own code from their export to a training set.

What belongs here: what the oracle's tests and those of the engines share. What does not: what the values must be
(`feature_oracle`).
"""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from fraud_platform import schema
from fraud_platform.currency import Rates
from fraud_platform.features import tables
from fraud_platform.features.in_force import spans
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.ingest.standardize import standardize
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings
from tests.feature_oracle import DAY, HOUR, LOADED_AT, MEANS_ONLINE, MINUTE, LabelRow, Row

TODAY = date(2026, 3, 29)
"""A Sunday on which European clocks change, which UTC must not notice."""

MIDNIGHT = int(datetime(2026, 3, 29, tzinfo=UTC).timestamp()) * 1_000_000
FIRST_DAY = TODAY - timedelta(days=99)


def write_world(settings: Settings, lake: Lake, rows: list[Row], labels: list[LabelRow]) -> None:
    """From an export to the training set of TODAY, by the code under test."""
    ingest_world(lake, rows, labels)
    derive(settings, lake, days_between(FIRST_DAY, TODAY))


def ingest_world(lake: Lake, rows: list[Row], labels: list[LabelRow]) -> None:
    """The world's transactions and labels as the lake holds them."""
    by_day: dict[date, list[Row]] = {}
    for row in rows:
        by_day.setdefault(date.fromtimestamp(row.day * 86_400), []).append(row)
    previous: tuple[date, pa.Table] | None = None
    begins = min(by_day, default=TODAY)
    for day in days_between(FIRST_DAY, TODAY):
        arrived = [label for label in labels if label.arrived // DAY == (day - date(1970, 1, 1)).days]
        lake.write(tables.FRAUD_LABELS, day, label_table(arrived))
        if day not in by_day:
            # before the first row there is no history; since then a day without rows is a partition without rows
            if day >= begins:
                lake.write(tables.RAW_TRANSACTIONS, day, schema.RAW_TRANSACTIONS.empty_table())
            continue
        before = previous[1] if previous and previous[0] == day - timedelta(days=1) else None
        result = standardize(export(by_day[day]), day, Rates("EUR", {}), "EUR", before)
        assert result.quarantine.num_rows == 0, result.quarantine.to_pylist()
        lake.write(tables.RAW_TRANSACTIONS, day, result.transactions)
        previous = (day, result.transactions)
    lake.write(tables.FX_RATES, TODAY, schema.RATES.empty_table())


def derive(settings: Settings, lake: Lake, days: list[date]) -> None:
    """What the offline engine makes of `days`: their tiles, two snapshots, the training set of the last."""
    write_user_tiles(settings, lake, days)
    write_merchant_tiles(settings, lake, days)
    write_label_tiles(settings, lake, days)
    recent = days[-3:-1]
    write_user_features(settings, lake, recent)
    write_merchant_features(settings, lake, recent)
    write_medians(lake, recent)
    in_force = spans(recent, [], settings.online_ttl_days)
    loads = [(micros(day + timedelta(days=1)) + LOADED_AT["west"], day) for day in recent]
    in_force += spans([], loads, settings.online_ttl_days, "west")
    write_training_set(settings, lake, days[-1:], in_force, in_force)


def micros(day: date) -> int:
    """The first microsecond of a day, since 1970."""
    return (day - date(1970, 1, 1)).days * DAY


def times(values: list[int]) -> pa.Array:
    return pa.array(values, pa.int64()).cast(schema.TIME)


def export(rows: list[Row]) -> pa.Table:
    columns = {
        "transaction_id": [row.id for row in rows],
        "user_id": [row.user for row in rows],
        "merchant_id": [row.merchant for row in rows],
        "amount_minor": [row.amount for row in rows],
        "currency": [row.currency for row in rows],
        "timestamp": times([row.timestamp for row in rows]),
        "received_at": times([row.received for row in rows]),
        "country": [row.country for row in rows],
        "user_country": [row.home for row in rows],
        "merchant_category": [None] * len(rows),
        "channel": [row.channel for row in rows],
        "device_id": [row.device for row in rows],
        "latitude": [None] * len(rows),
        "longitude": [None] * len(rows),
    }
    plain = pa.table(columns, schema=schema.EXPORT)
    return plain.append_column("region", pa.array([row.region or None for row in rows], pa.string()))


def label_table(labels: list[LabelRow]) -> pa.Table:
    columns = {
        "transaction_id": [label.transaction for label in labels],
        "caller": [label.caller for label in labels],
        "transaction_date": [date.fromtimestamp(label.transaction_day * 86_400) for label in labels],
        "arrived_at": times([label.arrived for label in labels]),
        "source": [label.source for label in labels],
        "revision": [label.revision for label in labels],
        "state": [label.state for label in labels],
    }
    return pa.table(columns, schema=schema.LABELS)


def crowded_world() -> tuple[list[Row], list[LabelRow]]:
    """600 rows of 8 users and 5 merchants, most of them personal, in no particular order."""
    random = np.random.default_rng(7)
    rows: list[Row] = []
    for number in range(600):
        if rows and random.random() < 0.03:
            copy = rows[random.integers(len(rows))]
            received = copy.received + int(random.integers(0, 2 * DAY))
            again = Row(copy.id, copy.user, copy.merchant, copy.amount, copy.timestamp, received)
            again.currency = copy.currency
            rows.append(again)
            continue
        received = MIDNIGHT - int(random.exponential(12)) % 98 * DAY + int(random.integers(0, DAY))
        rows.append(
            Row(
                id=f"t{number}",
                user=f"u{random.integers(8)}",
                merchant=f"m{random.integers(5)}",
                amount=int(random.lognormal(8, 1.5)),
                timestamp=received - int(random.choice([0, 500_000, 20 * HOUR, -2 * MINUTE])),
                received=received,
                country=random.choice(["DE", "FR", "BR"]),
                home="DE",
                channel=str(random.choice(["online", "pos"])) if number % 5 else list(MEANS_ONLINE)[number % 9],
                device=random.choice([None, "a", "b", "c"]),
                region=str(random.choice(["", "", "west"])),
                currency="EUR" if number % 7 else "KWD",
            )
        )
    rows = [row for row in rows if row.received < MIDNIGHT + DAY]
    labels = []
    for row in rows:
        if random.random() < 0.15:
            for revision in range(1, 1 + int(random.integers(1, 4))):
                arrived = row.received + int(random.exponential(5 * DAY))
                source = str(random.choice(["desk", "investigator", "chargeback", "issuer", "feedback"]))
                state = str(random.choice(schema.LABEL_STATES))
                caller = str(random.choice(["default", "default", "default", "other"]))
                labels.append(LabelRow(row.id, row.day, arrived, source, revision, state, caller))
    return rows, [label for label in labels if label.arrived < MIDNIGHT + DAY]
