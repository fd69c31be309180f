"""Day tiles: one UTC day of received_at becomes one row of partial sums and sets per user and per merchant, and each
day of arriving labels one row of fraud corrections per merchant and transaction day.

What belongs here: what a tile holds. What does not: windows over tiles (`snapshots`).
"""

from collections.abc import Sequence
from datetime import date, timedelta

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.catalogue import DAY, HOUR
from fraud_platform.features.label_rules import LabelRules, label_rules
from fraud_platform.features.labels import PAYMENT, by_caller, in_sequence, verdicts
from fraud_platform.features.offline import Written, microseconds, open_engine, paid_online, with_day_before, write_days
from fraud_platform.features.sequence import CLAMP_LOOKBACK_DAYS, sequence
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings

NIGHT_HOURS = 6

# Parquet names a list's element so; the same name here keeps a file's schema equal to its table's
STRINGS = pa.list_(pa.field("element", pa.string()))
INTEGERS = pa.list_(pa.field("element", pa.int64()))

_SUMS = [
    pa.field("txn_count", pa.int64()),
    # those whose amount is known in the base currency: what sums, means and deviations are of
    pa.field("amount_known", pa.int64()),
    pa.field("amount_sum", pa.int64()),
    # squares of minor units overflow int64 in a day of a large merchant
    pa.field("amount_square_sum", pa.decimal128(38, 0)),
    pa.field("amount_max", pa.int64()),
    pa.field("foreign_count", pa.int64()),
    pa.field("foreign_known", pa.int64()),
]
USER_TILE = pa.schema(
    [
        pa.field("user_id", pa.string()),
        *_SUMS,
        pa.field("online_count", pa.int64()),
        pa.field("channel_known", pa.int64()),
        pa.field("night_count", pa.int64()),
        pa.field("last_effective_time", pa.int64()),
        pa.field("merchants", STRINGS),
        pa.field("countries", STRINGS),
        pa.field("devices", INTEGERS),
    ]
)
MERCHANT_TILE = pa.schema([pa.field("merchant_id", pa.string()), *_SUMS, pa.field("users", STRINGS)])
LABEL_TILE = pa.schema(
    [
        pa.field("merchant_id", pa.string()),
        pa.field("transaction_date", pa.date32()),
        pa.field("fraud_delta", pa.int64()),
        # payments of which silence means nothing, until they are labelled: a fraud rate does not count them
        pa.field("unknown_delta", pa.int64()),
    ]
)


def _flag_sum(condition: ibis.Value) -> ibis.Value:
    """How often a condition holds; null counts as not."""
    return condition.cast("int64").sum().coalesce(0).cast("int64")


def _distinct(column: ibis.Value) -> ibis.Value:
    """Every value once, in order; null where there is none, which Spark would make an empty list."""
    return ibis.ifelse(column.count() > 0, column.collect(distinct=True).sort(), None)


def _sums(rows: ibis.Table) -> dict[str, ibis.Value]:
    foreign = rows.country != rows.user_country
    wide = rows.amount.cast("decimal(38, 0)")
    return {
        "txn_count": rows.count(),
        "amount_known": rows.amount.count(),
        "amount_sum": rows.amount.sum().coalesce(0).cast("int64"),
        "amount_square_sum": (wide * wide).sum().coalesce(ibis.literal(0, "decimal(38, 0)")).cast("decimal(38, 0)"),
        "amount_max": rows.amount.max(),
        "foreign_count": _flag_sum(foreign),
        "foreign_known": foreign.count(),
    }


def user_tiles(transactions: ibis.Table) -> ibis.Table:
    """USER_TILE rows with `date` of counted transactions; rows of the clamp's look-back must be among them."""
    rows = sequence(transactions, "user")
    online = paid_online(rows.channel)
    return rows.group_by("date", "user_id").agg(
        **_sums(rows),
        online_count=_flag_sum(online),
        channel_known=online.count(),
        night_count=_flag_sum(microseconds(rows.event_time) % DAY < NIGHT_HOURS * HOUR),
        last_effective_time=rows.user_effective_time.max(),
        merchants=_distinct(rows.merchant_id),
        countries=_distinct(rows.country),
        devices=_distinct(rows.device_key),
    )


def merchant_tiles(transactions: ibis.Table) -> ibis.Table:
    """MERCHANT_TILE rows with `date` of counted transactions."""
    rows = transactions.filter(~transactions.is_duplicate)
    return rows.group_by("date", "merchant_id").agg(**_sums(rows), users=_distinct(rows.user_id))


def label_tiles(labels: ibis.Table, transactions: ibis.Table, rules: LabelRules) -> ibis.Table:
    """LABEL_TILE rows with `date`, the labels' arrival day.

    The change of a transaction's verdict, −1, 0 or +1 fraud, and of its being UNLABELLED, is booked on the day it
    arrives, so a sum over arrival days up to D is what `labels.resolve_labels` knew at the end of D.
    """
    kept = verdicts(labels, rules)
    kept = kept.mutate(
        _fraud=kept.state.isin(schema.FRAUD_STATES).cast("int64"),
        _unknown=(kept.state == schema.UNLABELLED).cast("int64"),
    )
    changes = kept.mutate(
        _delta=kept._fraud - kept._fraud.lag(1).over(in_sequence()).coalesce(0),
        _unknown_delta=kept._unknown - kept._unknown.lag(1).over(in_sequence()).coalesce(0),
    )
    counted = by_caller(transactions.filter(~transactions.is_duplicate))
    counted = counted.select("caller", "transaction_id", "merchant_id", transaction_date=counted.date)
    known = changes.filter((changes._delta != 0) | (changes._unknown_delta != 0)).join(counted, PAYMENT)
    tiles = known.group_by("date", "merchant_id", "transaction_date").agg(
        fraud_delta=known._delta.sum().cast("int64"), unknown_delta=known._unknown_delta.sum().cast("int64")
    )
    return tiles.filter((tiles.fraud_delta != 0) | (tiles.unknown_delta != 0))


def _counted(lake: Lake, table: str, day: date) -> int:
    """Payments that the tiles of a day count."""
    return pc.sum(lake.read(table, day, ["txn_count"])["txn_count"]).as_py() or 0


def _write(
    settings: Settings, lake: Lake, days: Sequence[date], table: str, tile: pa.Schema, lookback: int
) -> list[Written]:
    engine = open_engine(settings, lake)
    days = with_day_before(lake, table, days, lambda day: _counted(lake, table, day))
    read = days_between(min(days) - timedelta(days=lookback), max(days))
    transactions = engine.daily(tables.RAW_TRANSACTIONS, read, schema.RAW_TRANSACTIONS)
    tiles = user_tiles(transactions) if tile is USER_TILE else merchant_tiles(transactions)
    wanted = tiles.filter(tiles.date >= ibis.literal(min(days))).order_by(["date", tile.names[0]])
    return write_days(lake, table, engine.run(wanted), days, tile)


def write_user_tiles(settings: Settings, lake: Lake, days: Sequence[date]) -> list[Written]:
    """Write the user tiles of `days`, which must be consecutive, and of the day before by `with_day_before`."""
    return _write(settings, lake, days, tables.USER_TILES, USER_TILE, CLAMP_LOOKBACK_DAYS)


def write_merchant_tiles(settings: Settings, lake: Lake, days: Sequence[date]) -> list[Written]:
    """Write the merchant tiles of `days`, which must be consecutive, and of the day before by `with_day_before`."""
    return _write(settings, lake, days, tables.MERCHANT_TILES, MERCHANT_TILE, 0)


def write_label_tiles(settings: Settings, lake: Lake, days: Sequence[date]) -> list[Written]:
    """Write the label tiles of arrival `days`, which must be consecutive, and of the day before them: of its payments,
    which its labels may speak of, some may have become duplicates since (`ingest.standardize.mark_decided_later`), and
    a fraud rate is a share of what the merchant's tiles count.

    Earlier labels of the same transactions arrived no earlier than the oldest of these transactions, so only labels
    and transactions since then are read.
    """
    before = min(days) - timedelta(days=1)
    if lake.exists(tables.LABEL_TILES, before):
        days = [before, *days]
    arriving = lake.read_days(tables.FRAUD_LABELS, days, ["transaction_date"])
    oldest = pc.min(arriving.column("transaction_date")).as_py() if arriving is not None else None
    read = days_between(oldest or min(days), max(days))
    engine = open_engine(settings, lake)
    labels = engine.daily(tables.FRAUD_LABELS, read, schema.LABELS)
    transactions = engine.daily(tables.RAW_TRANSACTIONS, read, schema.RAW_TRANSACTIONS)
    tiles = label_tiles(labels, transactions, label_rules(settings))
    wanted = tiles.filter(tiles.date >= ibis.literal(min(days))).order_by(["date", "merchant_id", "transaction_date"])
    return write_days(lake, tables.LABEL_TILES, engine.run(wanted), days, LABEL_TILE)
