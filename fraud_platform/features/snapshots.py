"""Snapshots: the batch features of every user and merchant as of the end of one UTC day, windows over tiles.

What belongs here: the snapshots' columns, writing them, the population's medians. What does not: window arithmetic
(`windows`, `rolling`), when a snapshot is in force (`in_force`), how it reaches the online store
(`online.snapshot_load`).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from time import perf_counter

import ibis
import numpy as np
import pyarrow as pa

from fraud_platform.features import tables
from fraud_platform.features.catalogue import (
    CATALOGUE,
    ENTITIES,
    LABEL_DELAY_DAYS,
    MIN_TRANSACTIONS,
    Catalogue,
    Entity,
    Feature,
)
from fraud_platform.features.offline import Engine, Written, chunks, open_engine, rows_of_day, timed
from fraud_platform.features.pruning import refuse_pruned
from fraud_platform.features.rolling import roll
from fraud_platform.features.stored import (
    StoredColumns,
    basis_of,
    feature_fields,
    medians_in,
    note,
    schema_of,
    with_medians,
)
from fraud_platform.features.tables import tables_of
from fraud_platform.features.tiles import INTEGERS, LABEL_TILE, MERCHANT_TILE, STRINGS, USER_TILE
from fraud_platform.features.windows import LONGEST_WINDOW, reach, window_features
from fraud_platform.lake import Lake, days_between
from fraud_platform.schema import TIME
from fraud_platform.settings import Settings

CHUNK_ROWS = 40_000
"""Tiles of the days computed by one query. A tile counts in up to 90 snapshots, so this bounds the join's memory. A day
that has more user tiles by itself is computed from the day before it (`rolling`)."""

_BESIDE: dict[Entity, list[pa.Field]] = {
    "user": [
        pa.field("last_seen_us", pa.int64()),
        pa.field("known_countries", STRINGS),
        pa.field("known_devices", INTEGERS),
    ],
    "merchant": [],
}
"""What a snapshot holds beside features."""
_TILES: dict[Entity, tuple[str, pa.Schema]] = {
    "user": (tables.USER_TILES, USER_TILE),
    "merchant": (tables.MERCHANT_TILES, MERCHANT_TILE),
}
MEDIANS = pa.schema([pa.field("feature", pa.string()), pa.field("median", pa.float32())])


def snapshot_schema(entity: Entity, catalogue: Catalogue) -> pa.Schema:
    """A snapshot's columns: key, `snapshot_at`, the features in the set's order, and what stands beside them."""
    features = feature_fields(catalogue, [feature.name for feature in catalogue.of(entity)])
    key = pa.field(f"{entity}_id", pa.string())
    return pa.schema([key, pa.field("snapshot_at", TIME), *features, *_BESIDE[entity]])


def snapshot_at(day: date) -> datetime:
    """The last microsecond of a UTC day: the instant that a snapshot speaks of."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, microseconds=-1)


def medians(rows: pa.Table, seen: pa.ChunkedArray, names: Iterable[str]) -> dict[str, float | None]:
    """The lower, discrete median of some features over entities with at least MIN_TRANSACTIONS in 90 days, float32;
    None where no entity has a value.

    rows: one whole snapshot's features. seen: the transactions of each row's entity in 90 days.
    """
    eligible = np.asarray(seen) >= MIN_TRANSACTIONS
    found: dict[str, float | None] = {}
    for name in names:
        column = rows.column(name).to_numpy(zero_copy_only=False)[eligible]
        values = column[~np.isnan(column)]
        lower = (len(values) - 1) // 2
        found[name] = float(np.partition(values, lower)[lower]) if len(values) else None
    return found


def write_user_features(
    settings: Settings, lake: Lake, days: Sequence[date], catalogue: Catalogue = CATALOGUE
) -> list[Written]:
    """Write the user snapshots of `days`, which must be consecutive, without computing what is `stored` already."""
    return _write(settings, lake, days, "user", catalogue)


def write_merchant_features(
    settings: Settings, lake: Lake, days: Sequence[date], catalogue: Catalogue = CATALOGUE
) -> list[Written]:
    """Write the merchant snapshots of `days`, which must be consecutive, without computing what is `stored` already."""
    return _write(settings, lake, days, "merchant", catalogue)


def _write(settings: Settings, lake: Lake, days: Sequence[date], entity: Entity, catalogue: Catalogue) -> list[Written]:
    table, schema = tables_of(catalogue).snapshots(entity), snapshot_schema(entity, catalogue)
    features, seen = catalogue.of(entity), catalogue.seen(entity)
    # noted first: a tile that is written again from here on makes these snapshots ones that nobody takes columns of
    bases = _bases(lake, entity, days, features)
    stored = StoredColumns(lake, table, days)
    hashes = {feature.name: catalogue.hashes[feature.name] for feature in features}
    found = {day: stored.find(day, bases[day], hashes) for day in days}

    def missing(day: date) -> tuple[Feature, ...]:
        held = found[day]
        if held is None:
            return features
        wanted = [one for one in features if one.name not in held.columns]
        # the rows that pruning keeps do not give a new feature's median: that takes everybody, and who is personal
        whom = [seen] if wanted and held.pruned and seen not in wanted else []
        return (*whom, *wanted)

    written: list[Written] = []
    for (whole, wanted), group in groupby(days, lambda day: (found[day] is None, missing(day))):
        for chunk in chunks(lake, _TILES[entity][0], list(group), CHUNK_ROWS, f"{entity}_features"):
            began = perf_counter()
            computed = _computed(settings, lake, chunk, entity, wanted, whole=whole) if wanted else None
            for day in chunk:
                part = None if computed is None else rows_of_day(computed, day)
                rows, held = part, found[day]
                if held is not None:
                    rows = stored.joined(day, held, _beside(entity), part)
                assert rows is not None, "a set without features of an entity is found nowhere"
                known = medians_in(rows.schema)
                if part is not None:
                    counted = (part if seen in wanted else rows)[seen.name]
                    known |= medians(part, counted, [one.name for one in wanted])
                stamps = pa.repeat(pa.scalar(snapshot_at(day), TIME), rows.num_rows)
                said = with_medians(schema, known).with_metadata(rows.schema.metadata if held else None)
                rows = rows.append_column("snapshot_at", stamps).select(schema.names).cast(said)
                size = lake.write(table, day, rows.combine_chunks())
                note(lake, table, day, bases[day])
                names = [one.name for one in features]
                reused = tuple(held.columns) if held else ()
                made = tuple(name for name in names if name not in reused)
                written.append(Written(day, rows.num_rows, size, made, reused))
            written[-len(chunk) :] = timed(written[-len(chunk) :], perf_counter() - began)
    return written


def _beside(entity: Entity) -> list[str]:
    return [f"{entity}_id", *(field.name for field in _BESIDE[entity])]


def _bases(lake: Lake, entity: Entity, days: Sequence[date], features: Sequence[Feature]) -> dict[date, str]:
    """What the snapshot of each day is made of: the tiles as far back as any feature looks, and as far as those with
    the usual delay may, so that sets agree."""
    usual = LONGEST_WINDOW + (LABEL_DELAY_DAYS if entity == "merchant" else 0)
    back = max(usual, reach(features)) - 1
    read = days_between(min(days) - timedelta(days=back), max(days))
    below = [_TILES[entity][0], *([tables.LABEL_TILES] if entity == "merchant" else [])]
    versions = [lake.versions(table, read) for table in below]
    return {
        day: basis_of(
            entity,
            LONGEST_WINDOW,
            [
                [(str(each), held[each]) for each in days_between(day - timedelta(days=back), day) if each in held]
                for held in versions
            ],
        )
        for day in days
    }


def _computed(
    settings: Settings, lake: Lake, chunk: list[date], entity: Entity, features: Sequence[Feature], *, whole: bool
) -> pa.Table:
    """Some features of the chunk's snapshots with key and `date`, in their order; whole: and what stands beside."""
    engine = open_engine(settings, lake)
    table, tile = _TILES[entity]
    beside = whole and entity == "user"
    large = lake.exists(table, chunk[0]) and lake.size(table, chunk[0])[0] > CHUNK_ROWS
    if entity == "user" and large:
        [day] = chunk
        rows = roll(engine, lake, day, features, beside=beside)
    else:
        read = days_between(chunk[0] - timedelta(days=reach(features) - 1), chunk[-1])
        tiles = engine.daily(table, read, tile)
        labels = engine.daily(tables.LABEL_TILES, read, LABEL_TILE) if entity == "merchant" else None
        rows = window_features(entity, features, tiles, labels, _calendar(engine, chunk), beside=beside)
    key = f"{entity}_id"
    names = [key, *(feature.name for feature in features), *(_beside(entity)[1:] if whole else [])]
    return engine.run(rows.mutate(date=rows.snapshot).order_by([rows.snapshot, rows[key]]).select("date", *names))


def _calendar(engine: Engine, chunk: list[date]) -> ibis.Table:
    return engine.local(pa.table({"snapshot": pa.array(chunk, pa.date32())}))


def write_medians(lake: Lake, days: Sequence[date], catalogue: Catalogue = CATALOGUE) -> list[Written]:
    """Write the medians of the snapshots of `days`: one row per batch feature, null where nobody is eligible."""
    written, own = [], tables_of(catalogue)
    names = [feature.name for entity in ENTITIES for feature in catalogue.of(entity)]
    for day in days:
        found = [_medians(lake, own.snapshots(entity), day, entity, catalogue) for entity in ENTITIES]
        values = [medians[name] for medians in found for name in medians]
        rows = pa.table({"feature": names, "median": pa.array(values, pa.float32())}, schema=MEDIANS)
        written.append(Written(day, rows.num_rows, lake.write(own.feature_medians, day, rows)))
    return written


def _medians(lake: Lake, table: str, day: date, entity: Entity, catalogue: Catalogue) -> dict[str, float | None]:
    """Of one snapshot, in the set's order: those that its columns carry, or, of a file from before they did, those of
    its rows. Raises PrunedSnapshotError where these are not everybody's."""
    names = [feature.name for feature in catalogue.of(entity)]
    known = medians_in(schema_of(lake, table, day))
    if not set(names) <= known.keys():
        refuse_pruned(lake, table, day)
        rows = lake.read(table, day)
        known = medians(rows, rows[catalogue.seen(entity).name], names)
    return {name: known[name] for name in names}


def read_medians(lake: Lake, day: date, catalogue: Catalogue = CATALOGUE) -> Mapping[Entity, np.ndarray]:
    """The medians of snapshot `day`: float32 of shape (features,) per entity, in the set's order; null is NaN."""
    column = lake.read(tables_of(catalogue).feature_medians, day).column("median")
    values = column.to_numpy(zero_copy_only=False).astype(np.float32)
    users = len(catalogue.of("user"))
    return {"user": values[:users], "merchant": values[users:]}
