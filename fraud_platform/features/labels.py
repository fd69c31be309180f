"""Labels as of a cut: what was known about a transaction at one instant, and never anything later.

What belongs here: which label counts, and when a transaction without one counts as good. What does not: which cut a
training or an evaluation takes (`model.data`), the ranks and the distrust that this goes by (`label_rules`).

One resolver, `verdicts`, is behind everything that asks for labels: fraud rates (`tiles`), training, evaluation,
reports. Of the labels of one payment that have arrived,

1. those that are distrusted say nothing; that silence means nothing (`schema.UNLABELLED`) is no label and stays;
2. within a source the highest revision stands, of equal ones the latest;
3. of what the sources stand by, the highest rank counts, of equal ranks the latest; UNLABELLED is below every rank.

A payment is the caller's transaction_id on a UTC day: what one caller says of its own touches nobody else's.

A payment that was blocked did not happen: nobody will ever complain of it, so that nobody did says nothing, however old
it is. What somebody found out about it does count. A label that was imported with its row is no finding: a column of
labels has an entry for every row, looked at or not.
"""

from collections.abc import Iterable
from datetime import date

import duckdb
import ibis
import pyarrow as pa
import pyarrow.compute as pc

from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.catalogue import DAY
from fraud_platform.features.label_rules import SILENCE_RANK, UNKNOWN_RANK, Distrust, LabelRules
from fraud_platform.lake import Lake
from fraud_platform.schema import DEFAULT_CALLER

RESOLVED = pa.schema(
    [
        pa.field("caller", pa.string()),
        pa.field("transaction_id", pa.string()),
        pa.field("transaction_date", pa.date32()),
        pa.field("state", pa.string()),
        pa.field(
            "is_fraud",
            pa.bool_(),
            metadata={
                "description": "null while a case is only suspected, or nobody has said and silence means nothing"
            },
        ),
        pa.field("known_at", schema.TIME, metadata={"description": "arrival of the label that counts"}),
        pa.field("source", pa.string(), metadata={"description": "who says so"}),
        pa.field("revision", pa.int32()),
    ]
)

PAYMENT = ("caller", "transaction_id", "transaction_date")
"""What labels and payments are joined by."""
ARRIVAL = ("arrived_at", "source", "revision", "state")
"""The order in which labels of one payment are looked at."""


def by_caller(rows: ibis.Table) -> ibis.Table:
    """Rows with a `caller`: the default one where the file that they are from knows none."""
    if "caller" not in rows.columns:
        return rows.mutate(caller=ibis.literal(DEFAULT_CALLER))
    return rows.mutate(caller=rows.caller.fill_null(DEFAULT_CALLER))


def trusted(labels: ibis.Table, rules: LabelRules) -> ibis.Table:
    """The labels that are not distrusted, and what is no label."""
    for one in rules.distrusted:
        labels = labels.filter(~_fits(labels, one) | (labels.state == schema.UNLABELLED))
    return labels


def _fits(labels: ibis.Table, one: Distrust) -> ibis.Value:
    """`Distrust.fits`, of a table."""
    fits: ibis.Value = ibis.literal(True)
    if one.source is not None:
        fits = fits & (labels.source == one.source)
    if one.caller is not None:
        fits = fits & (labels.caller == one.caller)
    if one.since is not None:
        fits = fits & (labels.arrived_at >= ibis.literal(one.since, type=labels.arrived_at.type()))
    if one.until is not None:
        fits = fits & (labels.arrived_at < ibis.literal(one.until, type=labels.arrived_at.type()))
    return fits


def verdicts(labels: ibis.Table, rules: LabelRules) -> ibis.Table:
    """Those LABELS rows that counted for their payment from their arrival on, until the next one of it did.

    The last of a payment's, in ARRIVAL's order, is what counts in the end. Whether a label counted depends on what had
    arrived before it, and on nothing later.
    """
    labels = trusted(by_caller(labels), rules)
    of_source = (
        labels.source.cases(*rules.ranks.items(), else_=UNKNOWN_RANK) if rules.ranks else ibis.literal(UNKNOWN_RANK)
    )
    labels = labels.mutate(_rank=ibis.ifelse(labels.state == schema.UNLABELLED, SILENCE_RANK, of_source))
    own = labels.mutate(_highest=labels.revision.max().over(_before(labels, "source")))
    stands = own.filter(own._highest.isnull() | (own.revision >= own._highest))
    # a label that stands for its source is the latest of all, so among equal ranks it counts
    heard = stands.mutate(_above=stands._rank.max().over(_before(stands)))
    return heard.filter(heard._above.isnull() | (heard._rank >= heard._above)).drop("_rank", "_highest", "_above")


def _before(labels: ibis.Table, *beside: str) -> ibis.expr.builders.WindowBuilder:
    """What had arrived before, of the same payment."""
    return ibis.rows_window(group_by=[*PAYMENT, *beside], order_by=list(ARRIVAL), preceding=(None, 1))


def in_sequence() -> ibis.expr.builders.WindowBuilder:
    """The verdicts of a payment, one after the other."""
    return ibis.window(group_by=list(PAYMENT), order_by=list(ARRIVAL))


_LABEL = """
select
    case
        when transactions.blocked and resolved.source is not distinct from 'import' then null
        when resolved.transaction_id is not null then resolved.is_fraud
        when transactions.blocked then null
        when epoch_us(transactions.received_at) + $maturity <= $cut then false
    end as is_fraud
from transactions
left join resolved
    on resolved.transaction_id = transactions.transaction_id
    and resolved.transaction_date = transactions.transaction_date
    and resolved.caller = transactions.caller
order by transactions.position
"""


def read_labels(lake: Lake, days: Iterable[date]) -> pa.Table:
    """The LABELS rows that arrived on those of `days` that the lake holds, in order."""
    parts = [labels_of(lake.read(tables.FRAUD_LABELS, day)) for day in lake.held(tables.FRAUD_LABELS, days)]
    return pa.concat_tables([schema.LABELS.empty_table(), *parts])


def labels_of(rows: pa.Table) -> pa.Table:
    """One partition's rows as LABELS has them."""
    return with_caller(rows).select(schema.LABELS.names).cast(schema.LABELS)


def with_caller(rows: pa.Table) -> pa.Table:
    """`by_caller`, of an Arrow table."""
    if "caller" not in rows.column_names:
        return rows.append_column("caller", pa.repeat(DEFAULT_CALLER, rows.num_rows))
    position = rows.schema.get_field_index("caller")
    return rows.set_column(position, "caller", pc.fill_null(rows["caller"].cast(pa.string()), DEFAULT_CALLER))


def resolve_labels(labels: pa.Table, cut_us: int, rules: LabelRules) -> pa.Table:
    """The label that counts for each transaction that has one, as RESOLVED, ordered by transaction.

    labels: LABELS rows in any order. cut_us: UTC microseconds; a label that arrived at the cut is not known yet.
    """
    with _connect() as connection:
        known = pc.less(labels["arrived_at"].cast(pa.int64()), cut_us)
        connection.register("labels", labels.filter(known))
        engine = ibis.duckdb.from_connection(connection)
        counted = verdicts(engine.table("labels"), rules)
        last = counted.mutate(_last=ibis.row_number().over(_latest_first()) == 0)
        last = last.filter(last._last)
        resolved = last.select(
            *PAYMENT,
            "state",
            is_fraud=ibis.ifelse(
                last.state.isin(["suspected", schema.UNLABELLED]), None, last.state.isin(schema.FRAUD_STATES)
            ),
            known_at=last.arrived_at,
            source=last.source,
            revision=last.revision,
        )
        ordered = resolved.order_by(["transaction_date", "transaction_id", "caller"])
        result: pa.Table = engine.to_pyarrow(ordered)
    return result.cast(RESOLVED)


def _latest_first() -> ibis.expr.builders.WindowBuilder:
    return ibis.window(group_by=list(PAYMENT), order_by=[ibis.desc(name) for name in ARRIVAL])


def label_transactions(transactions: pa.Table, resolved: pa.Table, cut_us: int, maturity_days: int) -> pa.Table:
    """`transactions`, in their order, with `is_fraud` (bool): null is unknown, and must not be used.

    transactions: has transaction_id, transaction_date, received_at, `caller` where they are of several, and `blocked`
    (bool) where it may be. resolved: `resolve_labels` at the same cut. A transaction without a label is good once it is
    `maturity_days` old at the cut, and unknown before; a blocked one stays unknown.
    """
    keys = with_caller(transactions).select(["caller", "transaction_id", "transaction_date", "received_at"])
    happened = pa.repeat(False, keys.num_rows)
    blocked = transactions["blocked"] if "blocked" in transactions.column_names else happened
    keys = keys.append_column("blocked", blocked)
    keys = keys.append_column("position", pa.array(range(keys.num_rows), pa.int64()))
    with _connect() as connection:
        connection.register("transactions", keys)
        connection.register("resolved", resolved)
        values = {"cut": cut_us, "maturity": maturity_days * DAY}
        labelled: pa.Table = connection.sql(_LABEL, params=values).to_arrow_table()
    return transactions.append_column(pa.field("is_fraud", pa.bool_()), labelled.column("is_fraud"))


def _connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    return connection
