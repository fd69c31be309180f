"""The training set: for every counted transaction the 50 values that serving would have computed at that instant.

What belongs here: velocity as windows, the point-in-time join, one partition per UTC day of received_at. What does not:
labels, which change after the fact and are joined as of a training's cut (`labels`).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from functools import cache
from itertools import groupby
from time import perf_counter

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.catalogue import (
    CATALOGUE,
    ENTITIES,
    LIVE_HISTORY,
    VELOCITY_WINDOWS,
    Catalogue,
    Entity,
    Feature,
    Source,
)
from fraud_platform.features.gaps import refuse_gaps
from fraud_platform.features.in_force import Span, spans_table
from fraud_platform.features.offline import (
    Engine,
    Written,
    chunks,
    microseconds,
    open_engine,
    paid_online,
    rows_of_day,
    timed,
    with_day_before,
)
from fraud_platform.features.pruning import check_kept
from fraud_platform.features.sequence import WINDOW_LOOKBACK_DAYS, WINDOW_REACH, sequence
from fraud_platform.features.snapshots import read_medians, snapshot_schema
from fraud_platform.features.stored import StoredColumns, basis_of, feature_fields, note, noted
from fraud_platform.features.tables import SetTables, tables_of
from fraud_platform.features.vector import Matrix, VectorBuilder, VectorColumns, warmed
from fraud_platform.inference_log.callers import with_callers
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings

SNAPSHOT_DAYS = 2
"""A day's payments see the snapshot of the day before, and until the nightly load the one before that."""

CHUNK_ROWS = 100_000
"""Transactions joined by one query, or one day if it has more: bounds memory."""

_IDENTITY = [
    pa.field("transaction_id", pa.string()),
    pa.field("caller", pa.string(), nullable=False, metadata={"description": "whose payment it is"}),
    pa.field("user_id", pa.string()),
    pa.field("merchant_id", pa.string()),
    pa.field("transaction_date", pa.date32()),
    pa.field("received_at", schema.TIME),
    pa.field("event_time", schema.TIME),
    pa.field("user_effective_time", pa.int64()),
    pa.field("merchant_effective_time", pa.int64()),
    pa.field("user_counted_since", pa.int64(), metadata={"description": "epoch of the user's counters, or 0"}),
    pa.field("merchant_counted_since", pa.int64(), metadata={"description": "the same of the merchant's"}),
    pa.field(
        "amount_minor",
        pa.int64(),
        metadata={"description": "amount in minor units of the base currency; null: there was no rate"},
    ),
    pa.field("country", pa.string()),
    pa.field("user_country", pa.string()),
    pa.field("channel", pa.string()),
    pa.field("region", pa.string(), metadata={"description": "whose velocity and snapshots; empty: the first"}),
    pa.field("user_snapshot", pa.date32()),
    pa.field("merchant_snapshot", pa.date32()),
]
_BESIDE = [field.name for field in _IDENTITY]


def training_schema(catalogue: Catalogue) -> pa.Schema:
    """A training row's columns: whose payment it is and what was known of it, then the vector by name."""
    return pa.schema([*_IDENTITY, *feature_fields(catalogue, catalogue.names)])


TRAINING_ROW = training_schema(CATALOGUE)


def velocity(transactions: ibis.Table, first_day: date, features: Iterable[Feature]) -> ibis.Table:
    """Counted transactions with both effective times, the velocity features as int64 and `_live_last`, the user's
    previous effective time where it is less than 48 hours back. Each region has windows of its own, and each epoch of
    an entity: null where they begin before it.

    transactions: RAW_TRANSACTIONS with `date`, from WINDOW_LOOKBACK_DAYS before `first_day` on. Rows of the days before
    it are among the result, of the last two whole.
    """
    rows = sequence(sequence(transactions, "user"), "merchant")
    previous = rows.user_effective_time.lag(1).over(
        ibis.window(group_by=[rows.user_id, rows.region, rows.user_counted_since], order_by=rows.user_effective_time)
    )
    live = previous > rows.user_effective_time - LIVE_HISTORY
    rows = rows.mutate(_live_last=ibis.ifelse(live, previous, None))
    # what no window of the days wanted can reach would only be sorted
    midnight = int(np.datetime64(first_day, "us").astype(np.int64))
    rows = rows.filter(microseconds(rows.received_at) >= midnight - WINDOW_REACH)
    columns = {}
    for feature in features:
        entity = feature.entity
        since, at = rows[f"{entity}_counted_since"], rows[f"{entity}_effective_time"]
        # (t − w, t] over whole microseconds is [t − w + 1, t]
        window = ibis.range_window(
            group_by=[rows[f"{entity}_id"], rows.region, since],
            order_by=at,
            preceding=VELOCITY_WINDOWS[feature.window] - 1,
            following=0,
        )
        if feature.aggregate == "count":
            aggregate = rows.count()
        elif feature.aggregate == "sum":
            # a sum of amounts none of which is known is 0, as it is online
            aggregate = rows[feature.operand].coalesce(0).sum()
        else:
            raise NotImplementedError(f"{feature.name}: no live window is a {feature.aggregate}")
        complete = at - VELOCITY_WINDOWS[feature.window] + 1 >= since
        columns[feature.name] = ibis.ifelse(complete, aggregate.over(window).cast("int64"), None)
    return rows.mutate(**columns)


def _point_in_time(rows: ibis.Table, features: ibis.Table, spans: ibis.Table, entity: Source) -> ibis.Table:
    """Left join of the entity's snapshot in force in the region at received_at, with `<entity>_snapshot`."""
    key, snapshot = f"{entity}_id", f"{entity}_snapshot"
    in_force = spans.rename(**{snapshot: "snapshot"})
    rows = rows.left_join(
        in_force,
        [
            rows.region == in_force.region,
            rows.received_us >= in_force.visible_from_us,
            rows.received_us < in_force.visible_until_us,
        ],
    ).drop("visible_from_us", "visible_until_us", "region_right")
    features = features.drop("snapshot_at")
    joined = rows.left_join(features, [rows[key] == features[key], rows[snapshot] == features.date])
    return joined.drop(f"{key}_right", "date_right")


def _flag(condition: ibis.Value) -> ibis.Value:
    return condition.cast("int64").cast("float64")


def _contains(members: ibis.Value, value: ibis.Value) -> ibis.Value:
    """Whether a list has a value; null where either is, which Spark would take for not."""
    return ibis.ifelse(value.notnull(), members.contains(value), None)


def point_in_time(
    transactions: ibis.Table,
    users: ibis.Table,
    merchants: ibis.Table,
    user_spans: ibis.Table,
    merchant_spans: ibis.Table,
    first_day: date,
    features: Iterable[Feature],
) -> ibis.Table:
    """Every input of `VectorBuilder.build_all` as columns, one row per counted transaction from `first_day` on.

    transactions, features: as `velocity` takes them.
    """
    rows = velocity(transactions, first_day, features)
    rows = rows.filter(rows.date >= ibis.literal(first_day))
    rows = rows.mutate(received_us=microseconds(rows.received_at))
    rows = _point_in_time(rows, users, user_spans, "user")
    rows = _point_in_time(rows, merchants, merchant_spans, "merchant")
    return rows.mutate(
        transaction_date=rows.date,
        _event_us=microseconds(rows.event_time),
        _last=_last(rows._live_last, rows.last_seen_us, rows.user_effective_time, rows.user_counted_since),
        _is_online=_flag(paid_online(rows.channel)),
        _country_mismatch=_flag(rows.country != rows.user_country),
        _country_known=_flag(_contains(rows.known_countries, rows.country)),
        _device_known=_flag(_contains(rows.known_devices, rows.device_key)),
    )


def _last(live: ibis.Value, seen: ibis.Value, at: ibis.Value, since: ibis.Value) -> ibis.Value:
    """The user's previous effective time, live or the snapshot's; `online.velocity.last_attempt` over columns."""
    other_clock = seen > live.coalesce(at)
    incomplete = live.isnull() & (at - LIVE_HISTORY + 1 < since)
    unknown = (since > 0) & (other_clock | incomplete)
    return ibis.ifelse(unknown.coalesce(False), None, ibis.greatest(live, seen))


_INPUTS = ("_event_us", "_last", "_is_online", "_country_mismatch", "_country_known", "_device_known")


def _floats(rows: pa.Table, name: str) -> np.ndarray:
    return np.asarray(rows.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _block(rows: pa.Table, features: Sequence[Feature], dtype: type) -> np.ndarray:
    columns = [rows.column(feature.name).to_numpy(zero_copy_only=False) for feature in features]
    return np.column_stack(columns).astype(dtype) if len(rows) else np.empty((0, len(columns)), dtype)


class _Medians:
    """Medians of the snapshots that a frame names, as one row per transaction."""

    def __init__(self, lake: Lake, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._of = cache(lambda day: read_medians(lake, day, catalogue))

    def rows(self, snapshots: pa.ChunkedArray, entity: Entity) -> Matrix:
        encoded = snapshots.combine_chunks().dictionary_encode()
        # a transaction before the first snapshot has no medians: the last row stays NaN
        known = np.full((len(encoded.dictionary) + 1, len(self._catalogue.of(entity))), np.nan, np.float32)
        for index, day in enumerate(encoded.dictionary.to_pylist()):
            known[index] = self._of(day)[entity]
        codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
        return np.asarray(known[codes.astype(np.intp)])


def _vectors(rows: pa.Table, medians: _Medians, builder: VectorBuilder) -> Matrix:
    of = builder.catalogue.of
    return builder.build_all(
        VectorColumns(
            user_rows=_block(rows, of("user"), np.float32),
            user_medians=medians.rows(rows.column("user_snapshot"), "user"),
            merchant_rows=_block(rows, of("merchant"), np.float32),
            merchant_medians=medians.rows(rows.column("merchant_snapshot"), "merchant"),
            velocity=_block(rows, of("velocity"), np.float64),
            amount=_floats(rows, "amount_minor"),
            event_time=rows.column("_event_us").to_numpy(),
            user_effective_time=_floats(rows, "user_effective_time"),
            last_effective_time=_floats(rows, "_last"),
            is_online=_floats(rows, "_is_online"),
            country_mismatch=_floats(rows, "_country_mismatch"),
            country_known=_floats(rows, "_country_known"),
            device_known=_floats(rows, "_device_known"),
        )
    )


def _frame(
    engine: Engine, lake: Lake, chunk: list[date], spans: Mapping[Entity, Sequence[Span]], catalogue: Catalogue
) -> pa.Table:
    needed = {entity: _needed(spans[entity], chunk) for entity in ENTITIES}
    read = days_between(chunk[0] - timedelta(days=WINDOW_LOOKBACK_DAYS), chunk[-1])
    transactions = engine.daily(tables.RAW_TRANSACTIONS, read, schema.RAW_TRANSACTIONS)
    users, merchants = (
        engine.daily(
            tables_of(catalogue).snapshots(entity), _snapshots(needed[entity]), snapshot_schema(entity, catalogue)
        )
        for entity in ENTITIES
    )
    rows = point_in_time(
        transactions,
        users,
        merchants,
        engine.local(spans_table(needed["user"])),
        engine.local(spans_table(needed["merchant"])),
        chunk[0],
        catalogue.of("velocity"),
    )
    # the training set speaks of base currency alone
    rows = rows.drop("amount_minor").rename(amount_minor="amount")
    columns = [*_BESIDE, *(feature.name for feature in catalogue.features if feature.source != "request")]
    found = engine.run(rows.order_by(list(schema.PROCESSING_ORDER)).select(*columns, *_INPUTS))
    return with_callers(lake, found)


def _needed(spans: Sequence[Span], chunk: Sequence[date]) -> list[Span]:
    """Snapshots in force at some instant of the chunk's days."""
    start, end = (int(np.datetime64(day, "us").astype(np.int64)) for day in (chunk[0], chunk[-1] + timedelta(days=1)))
    return [span for span in spans if span.visible_from_us < end and span.visible_until_us > start]


def _snapshots(spans: Sequence[Span]) -> list[date]:
    return sorted({span.snapshot for span in spans})


def _bases(
    lake: Lake, own: SetTables, days: Sequence[date], spans: Mapping[Entity, Sequence[Span]]
) -> dict[date, str | None]:
    """What the training rows of each day are made of: raw transactions, and the snapshots in force with what these were
    made of themselves; None where one of them does not say so."""
    raw = lake.versions(
        tables.RAW_TRANSACTIONS, days_between(min(days) - timedelta(days=WINDOW_LOOKBACK_DAYS), max(days))
    )
    made = {entity: noted(lake, own.snapshots(entity), _snapshots(spans[entity])) for entity in ENTITIES}

    def of(day: date) -> str | None:
        read = [(str(each), known) for each, known in raw.items() if 0 <= (day - each).days <= WINDOW_LOOKBACK_DAYS]
        parts: list[object] = [read]
        # when a snapshot ceased to be in force after the day says nothing about the day
        end = int(np.datetime64(day + timedelta(days=1), "us").astype(np.int64))
        for entity in ENTITIES:
            needed = _needed(spans[entity], [day])
            snapshots = [(str(each), made[entity].get(each)) for each in _snapshots(needed)]
            if None in dict(snapshots).values():
                return None
            seen = [
                (str(one.snapshot), one.visible_from_us, min(one.visible_until_us, end), one.region) for one in needed
            ]
            parts.append([entity, snapshots, seen])
        return basis_of(*parts)

    return {day: of(day) for day in days}


def write_training_set(
    settings: Settings,
    lake: Lake,
    days: Sequence[date],
    user_spans: Sequence[Span],
    merchant_spans: Sequence[Span],
    catalogue: Catalogue = CATALOGUE,
) -> list[Written]:
    """Write the training set of `days`, which must be consecutive, and of the day before by `with_day_before`, with the
    snapshots in force by the spans, without computing what is `stored` already.

    Raises GapError where a snapshot of the days before was never built, since payments would be given an older one, and
    PrunedSnapshotError where an old snapshot was kept for other payments than these days have.
    """
    own = tables_of(catalogue)
    spans: dict[Entity, Sequence[Span]] = {"user": user_spans, "merchant": merchant_spans}
    seen = days_between(min(days) - timedelta(days=SNAPSHOT_DAYS), max(days) - timedelta(days=1))
    for table in (own.user_features, own.merchant_features, own.feature_medians):
        refuse_gaps(lake, table, seen)
    days = with_day_before(lake, own.training_set, days, lambda day: lake.size(own.training_set, day)[0])
    # noted first: what is written again from here on makes these rows ones that nobody takes columns of
    bases = _bases(lake, own, days, spans)
    stored = StoredColumns(lake, own.training_set, days)
    found = {day: stored.find(day, bases[day], catalogue.hashes) for day in days}

    def missing(day: date) -> tuple[Feature, ...]:
        held = found[day]
        wanted = (
            catalogue.features if held is None else [one for one in catalogue.features if one.name not in held.columns]
        )
        # what is made of the payment itself, or of other payments, is made together
        return tuple(wanted) if all(one.source in ENTITIES for one in wanted) else catalogue.features

    written: list[Written] = []
    medians, builder = _Medians(lake, catalogue), VectorBuilder(catalogue)
    row = training_schema(catalogue)
    for wanted, group in groupby(days, missing):
        for chunk in chunks(lake, tables.RAW_TRANSACTIONS, list(group), CHUNK_ROWS, "training_set"):
            for entity in ENTITIES:
                check_kept(lake, own.snapshots(entity), f"{entity}_id", chunk, _needed(spans[entity], chunk))
            began, whole = perf_counter(), wanted == catalogue.features
            frame = _whole(settings, lake, chunk, spans, medians, builder) if whole else None
            for day in chunk:
                held = None if whole else found[day]
                if held is None:
                    assert frame is not None
                    part = rows_of_day(frame, day)
                else:
                    part = stored.read(day, held, _BESIDE)
                    part = _with_batch(lake, part, wanted, medians, catalogue)
                part = part.select(row.names).cast(row)
                size = lake.write(own.training_set, day, part.combine_chunks())
                note(lake, own.training_set, day, bases[day])
                reused = tuple(held.columns) if held else ()
                written.append(Written(day, part.num_rows, size, tuple(one.name for one in wanted), reused))
            written[-len(chunk) :] = timed(written[-len(chunk) :], perf_counter() - began)
    return written


def _whole(
    settings: Settings,
    lake: Lake,
    chunk: list[date],
    spans: Mapping[Entity, Sequence[Span]],
    medians: _Medians,
    builder: VectorBuilder,
) -> pa.Table:
    """The training rows of some days with `date`."""
    rows = _frame(open_engine(settings, lake), lake, chunk, spans, builder.catalogue)
    vectors = _vectors(rows, medians, builder)
    features = {name: _nullable(vectors[:, i]) for i, name in enumerate(builder.catalogue.names)}
    frame = pa.table({name: rows.column(name) for name in _BESIDE} | features)
    return frame.append_column("date", frame["transaction_date"])


def _nullable(values: Matrix) -> pa.Array:
    """NaN is null in the lake, so that row counts and reports see what is missing."""
    return pa.array(values, from_pandas=True)


def _with_batch(
    lake: Lake, rows: pa.Table, wanted: Sequence[Feature], medians: _Medians, catalogue: Catalogue
) -> pa.Table:
    """Stored training rows with some batch features more, from the snapshots that the rows name."""
    for entity in ENTITIES:
        names = [one.name for one in wanted if one.source == entity]
        if not names:
            continue
        features = catalogue.of(entity)
        block = np.full((rows.num_rows, len(features)), np.nan, np.float32)
        read = [one for one in features if one.name in {*names, catalogue.seen(entity).name}]
        keys, snapshots = rows[f"{entity}_id"], rows[f"{entity}_snapshot"]
        for day in pc.unique(snapshots.drop_null()).to_pylist():
            held = lake.read(tables_of(catalogue).snapshots(entity), day, [f"{entity}_id", *(one.name for one in read)])
            seeing = np.flatnonzero(pc.fill_null(pc.equal(snapshots, pa.scalar(day)), False).to_numpy())
            at = pc.index_in(keys.take(pa.array(seeing)), value_set=held[f"{entity}_id"].combine_chunks())
            known = pc.is_valid(at).to_numpy(zero_copy_only=False)
            at = at.drop_null().to_numpy().astype(np.intp)
            for one in read:
                values = held[one.name].to_numpy(zero_copy_only=False)
                block[seeing[known], features.index(one)] = values[at]
        warm = warmed(catalogue, entity, block, medians.rows(snapshots, entity))
        for name in names:
            rows = rows.append_column(
                name, _nullable(warm[:, catalogue.position[name] - catalogue.columns(entity).start])
            )
    return rows
