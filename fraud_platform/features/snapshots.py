"""Snapshots: the batch features of every user and merchant as of the end of one UTC day, windows over tiles.

What belongs here: the snapshots' columns, writing them, the population's medians. What does not: window arithmetic
(`windows`, `rolling`), when a snapshot is in force (`in_force`), how it reaches the online store
(`online.snapshot_load`).
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import ibis
import numpy as np
import pyarrow as pa

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, LABEL_DELAY_DAYS, MIN_TRANSACTIONS, Entity
from fraud_platform.features.offline import Engine, Written, chunks, open_engine, write_days
from fraud_platform.features.rolling import roll
from fraud_platform.features.tiles import INTEGERS, LABEL_TILE, MERCHANT_TILE, STRINGS, USER_TILE
from fraud_platform.features.windows import LONGEST_WINDOW, merchant_features, user_features
from fraud_platform.lake import Lake, days_between
from fraud_platform.schema import TIME
from fraud_platform.settings import Settings

CHUNK_ROWS = 40_000
"""Tiles of the days computed by one query. A tile counts in up to 90 snapshots, so this bounds the join's memory. A day
that has more user tiles by itself is computed from the day before it (`rolling`)."""


def _feature_schema(source: Entity, key: str, extra: Sequence[pa.Field] = ()) -> pa.Schema:
    features = [
        pa.field(
            feature.name,
            pa.float32(),
            metadata={"unit": feature.unit, "window": feature.window, "description": feature.meaning},
        )
        for feature in CATALOGUE.of(source)
    ]
    return pa.schema([pa.field(key, pa.string()), pa.field("snapshot_at", TIME), *features, *extra])


USER_SNAPSHOT = _feature_schema(
    "user",
    "user_id",
    [
        pa.field("last_seen_us", pa.int64()),
        pa.field("known_countries", STRINGS),
        pa.field("known_devices", INTEGERS),
    ],
)
MERCHANT_SNAPSHOT = _feature_schema("merchant", "merchant_id")
MEDIANS = pa.schema([pa.field("feature", pa.string()), pa.field("median", pa.float32())])


def snapshot_at(day: date) -> datetime:
    """The last microsecond of a UTC day: the instant that a snapshot speaks of."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, microseconds=-1)


def medians(rows: pa.Table, source: Entity) -> list[float | None]:
    """The lower, discrete median of each batch feature over entities with at least MIN_TRANSACTIONS in 90 days.

    rows: one snapshot. Returns float32 values in the catalogue's order; None where no entity has a value.
    """
    eligible = np.asarray(rows.column(CATALOGUE.seen(source).name)) >= MIN_TRANSACTIONS
    result: list[float | None] = []
    for feature in CATALOGUE.of(source):
        column = rows.column(feature.name).to_numpy(zero_copy_only=False)[eligible]
        values = column[~np.isnan(column)]
        lower = (len(values) - 1) // 2
        result.append(float(np.partition(values, lower)[lower]) if len(values) else None)
    return result


def _store(
    engine: Engine, lake: Lake, table: str, rows: ibis.Table, chunk: list[date], schema: pa.Schema
) -> list[Written]:
    key = schema.names[0]
    dated = rows.mutate(date=rows.snapshot).order_by([rows.snapshot, rows[key]])
    # snapshot_at is a function of the day, so it is set here once rather than by SQL
    plain = pa.schema([field for field in schema if field.name != "snapshot_at"])
    result = engine.run(dated.select("date", *plain.names))
    stamps = pa.array([snapshot_at(day) for day in chunk], TIME)
    codes = [chunk.index(day) for day in result.column("date").to_pylist()] if len(chunk) > 1 else [0] * len(result)
    result = result.append_column("snapshot_at", stamps.take(pa.array(codes, pa.int32())))
    return write_days(lake, table, result, chunk, schema)


def _calendar(engine: Engine, chunk: list[date]) -> ibis.Table:
    return engine.local(pa.table({"snapshot": pa.array(chunk, pa.date32())}))


def write_user_features(settings: Settings, lake: Lake, days: Sequence[date]) -> list[Written]:
    """Write the user snapshots of `days`, which must be consecutive."""
    written: list[Written] = []
    for chunk in chunks(lake, tables.USER_TILES, days, CHUNK_ROWS, "user_features"):
        engine = open_engine(settings, lake)
        if lake.exists(tables.USER_TILES, chunk[0]) and lake.size(tables.USER_TILES, chunk[0])[0] > CHUNK_ROWS:
            [day] = chunk
            rows = roll(engine, lake, day)
        else:
            read = days_between(chunk[0] - timedelta(days=LONGEST_WINDOW - 1), chunk[-1])
            tiles = engine.daily(tables.USER_TILES, read, USER_TILE)
            rows = user_features(tiles, _calendar(engine, chunk))
        written += _store(engine, lake, tables.USER_FEATURES, rows, chunk, USER_SNAPSHOT)
    return written


def write_merchant_features(settings: Settings, lake: Lake, days: Sequence[date]) -> list[Written]:
    """Write the merchant snapshots of `days`, which must be consecutive."""
    written: list[Written] = []
    for chunk in chunks(lake, tables.MERCHANT_TILES, days, CHUNK_ROWS, "merchant_features"):
        engine = open_engine(settings, lake)
        reach = LONGEST_WINDOW + LABEL_DELAY_DAYS
        read = days_between(chunk[0] - timedelta(days=reach - 1), chunk[-1])
        tiles = engine.daily(tables.MERCHANT_TILES, read, MERCHANT_TILE)
        labels = engine.daily(tables.LABEL_TILES, read, LABEL_TILE)
        rows = merchant_features(tiles, labels, _calendar(engine, chunk))
        written += _store(engine, lake, tables.MERCHANT_FEATURES, rows, chunk, MERCHANT_SNAPSHOT)
    return written


def write_medians(lake: Lake, days: Sequence[date]) -> list[Written]:
    """Write the medians of the snapshots of `days`: one row per batch feature, null where nobody is eligible."""
    written = []
    for day in days:
        users = medians(lake.read(tables.USER_FEATURES, day), "user")
        merchants = medians(lake.read(tables.MERCHANT_FEATURES, day), "merchant")
        names = [feature.name for source in ("user", "merchant") for feature in CATALOGUE.of(source)]
        rows = pa.table({"feature": names, "median": pa.array(users + merchants, pa.float32())}, schema=MEDIANS)
        written.append(Written(day, rows.num_rows, lake.write(tables.FEATURE_MEDIANS, day, rows)))
    return written


def read_medians(lake: Lake, day: date) -> dict[str, np.ndarray]:
    """The medians of snapshot `day`: float32 of shape (17,) under "user", (10,) under "merchant"; null is NaN."""
    column = lake.read(tables.FEATURE_MEDIANS, day).column("median").to_numpy(zero_copy_only=False).astype(np.float32)
    users = len(CATALOGUE.of("user"))
    return {"user": column[:users], "merchant": column[users:]}
