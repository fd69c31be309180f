"""The training set: for every counted transaction the 50 values that serving would have computed at that instant.

What belongs here: velocity as windows, the point-in-time join, one partition per UTC day of received_at. What does not:
labels, which change after the fact and are joined as of a training's cut (`labels`).
"""

from collections.abc import Sequence
from datetime import date, timedelta

import ibis
import numpy as np
import pyarrow as pa

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, LIVE_HISTORY, VELOCITY_WINDOWS, Source
from fraud_platform.features.gaps import refuse_gaps
from fraud_platform.features.in_force import Span, spans_table
from fraud_platform.features.offline import (
    Engine,
    Written,
    chunks,
    microseconds,
    open_engine,
    paid_online,
    with_day_before,
    write_days,
)
from fraud_platform.features.pruning import check_kept
from fraud_platform.features.sequence import WINDOW_LOOKBACK_DAYS, WINDOW_REACH, sequence
from fraud_platform.features.snapshots import MERCHANT_SNAPSHOT, USER_SNAPSHOT, read_medians
from fraud_platform.features.vector import Matrix, VectorBuilder, VectorColumns
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
TRAINING_ROW = pa.schema(
    [*_IDENTITY, *(pa.field(f.name, pa.float32(), metadata={"description": f.meaning}) for f in CATALOGUE.features)]
)


def velocity(transactions: ibis.Table, first_day: date) -> ibis.Table:
    """Counted transactions with both effective times, the 11 velocity features as int64 and `_live_last`, the user's
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
    for feature in CATALOGUE.of("velocity"):
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
) -> ibis.Table:
    """Every input of `VectorBuilder.build_all` as columns, one row per counted transaction from `first_day` on.

    transactions: as `velocity` takes them.
    """
    rows = velocity(transactions, first_day)
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


def _block(rows: pa.Table, source: Source, dtype: type) -> np.ndarray:
    columns = [rows.column(feature.name).to_numpy(zero_copy_only=False) for feature in CATALOGUE.of(source)]
    return np.column_stack(columns).astype(dtype) if len(rows) else np.empty((0, len(columns)), dtype)


class _Medians:
    """Medians of the snapshots that a frame names, as one row per transaction."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._cache: dict[date, dict[str, np.ndarray]] = {}

    def rows(self, snapshots: pa.ChunkedArray, source: Source) -> Matrix:
        encoded = snapshots.combine_chunks().dictionary_encode()
        width = len(CATALOGUE.of(source))
        # a transaction before the first snapshot has no medians: the last row stays NaN
        known = np.full((len(encoded.dictionary) + 1, width), np.nan, np.float32)
        for index, day in enumerate(encoded.dictionary.to_pylist()):
            if day not in self._cache:
                self._cache[day] = read_medians(self._lake, day)
            known[index] = self._cache[day][source]
        codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
        return np.asarray(known[codes.astype(np.intp)])


_BUILDER = VectorBuilder(CATALOGUE)


def _vectors(rows: pa.Table, medians: _Medians) -> Matrix:
    return _BUILDER.build_all(
        VectorColumns(
            user_rows=_block(rows, "user", np.float32),
            user_medians=medians.rows(rows.column("user_snapshot"), "user"),
            merchant_rows=_block(rows, "merchant", np.float32),
            merchant_medians=medians.rows(rows.column("merchant_snapshot"), "merchant"),
            velocity=_block(rows, "velocity", np.float64),
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
    engine: Engine, lake: Lake, chunk: list[date], user_spans: Sequence[Span], merchant_spans: Sequence[Span]
) -> pa.Table:
    user_spans, merchant_spans = _needed(user_spans, chunk), _needed(merchant_spans, chunk)
    read = days_between(chunk[0] - timedelta(days=WINDOW_LOOKBACK_DAYS), chunk[-1])
    transactions = engine.daily(tables.RAW_TRANSACTIONS, read, schema.RAW_TRANSACTIONS)
    users = engine.daily(tables.USER_FEATURES, _snapshots(user_spans), USER_SNAPSHOT)
    merchants = engine.daily(tables.MERCHANT_FEATURES, _snapshots(merchant_spans), MERCHANT_SNAPSHOT)
    rows = point_in_time(
        transactions,
        users,
        merchants,
        engine.local(spans_table(user_spans)),
        engine.local(spans_table(merchant_spans)),
        chunk[0],
    )
    # the training set speaks of base currency alone
    rows = rows.drop("amount_minor").rename(amount_minor="amount")
    columns = [field.name for field in _IDENTITY] + [
        feature.name for feature in CATALOGUE.features if feature.source != "request"
    ]
    found = engine.run(rows.order_by(list(schema.PROCESSING_ORDER)).select(*columns, *_INPUTS))
    return with_callers(lake, found)


def _needed(spans: Sequence[Span], chunk: list[date]) -> list[Span]:
    """Snapshots in force at some instant of the chunk's days."""
    start, end = (int(np.datetime64(day, "us").astype(np.int64)) for day in (chunk[0], chunk[-1] + timedelta(days=1)))
    return [span for span in spans if span.visible_from_us < end and span.visible_until_us > start]


def _snapshots(spans: Sequence[Span]) -> list[date]:
    return sorted({span.snapshot for span in spans})


def write_training_set(
    settings: Settings, lake: Lake, days: Sequence[date], user_spans: Sequence[Span], merchant_spans: Sequence[Span]
) -> list[Written]:
    """Write the training set of `days`, which must be consecutive, and of the day before by `with_day_before`, with the
    snapshots in force by the spans.

    Raises GapError where a snapshot of the days before was never built, since payments would be given an older one, and
    PrunedSnapshotError where an old snapshot was kept for other payments than these days have.
    """
    seen = days_between(min(days) - timedelta(days=SNAPSHOT_DAYS), max(days) - timedelta(days=1))
    for table in (tables.USER_FEATURES, tables.MERCHANT_FEATURES, tables.FEATURE_MEDIANS):
        refuse_gaps(lake, table, seen)
    written: list[Written] = []
    medians = _Medians(lake)
    days = with_day_before(lake, tables.TRAINING_SET, days, lambda day: lake.size(tables.TRAINING_SET, day)[0])
    for chunk in chunks(lake, tables.RAW_TRANSACTIONS, days, CHUNK_ROWS, "training_set"):
        for table, entity, spans in (
            (tables.USER_FEATURES, "user", user_spans),
            (tables.MERCHANT_FEATURES, "merchant", merchant_spans),
        ):
            check_kept(lake, table, f"{entity}_id", chunk, _needed(spans, chunk))
        rows = _frame(open_engine(settings, lake), lake, chunk, user_spans, merchant_spans)
        vectors = _vectors(rows, medians)
        # NaN is null in the lake, so that row counts and reports see what is missing
        features = {name: pa.array(vectors[:, i], from_pandas=True) for i, name in enumerate(CATALOGUE.names)}
        frame = pa.table({field.name: rows.column(field.name) for field in _IDENTITY} | features)
        written += write_days(
            lake, tables.TRAINING_SET, frame.append_column("date", frame["transaction_date"]), chunk, TRAINING_ROW
        )
    return written
