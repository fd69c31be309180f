"""Labels as of a cut: what was known about a transaction at one instant, and never anything later.

What belongs here: which label counts, and when a transaction without one counts as good. What does not: which cut a
training or an evaluation takes (`model.data`).

A payment that was blocked did not happen: nobody will ever complain of it, so that nobody did says nothing, however old
it is. What somebody found out about it does count. A label that was imported with its row is no finding: a column of
labels has an entry for every row, looked at or not.
"""

import duckdb
import pyarrow as pa

from fraud_platform import schema
from fraud_platform.features.catalogue import DAY

RESOLVED = pa.schema(
    [
        pa.field("transaction_id", pa.string()),
        pa.field("transaction_date", pa.date32()),
        pa.field("state", pa.string()),
        pa.field("is_fraud", pa.bool_(), metadata={"description": "null while a case is only suspected"}),
        pa.field("known_at", schema.TIME, metadata={"description": "arrival of the label that counts"}),
        pa.field("source", pa.string(), metadata={"description": "who says so"}),
    ]
)

_FRAUD = ", ".join(f"'{state}'" for state in schema.FRAUD_STATES)

# the order of label_tiles: the highest revision, then the latest arrival, then the source
_RESOLVE = f"""
select
    transaction_id,
    transaction_date,
    state,
    case when state = 'suspected' then null else state in ({_FRAUD}) end as is_fraud,
    arrived_at as known_at,
    source
from labels
where epoch_us(arrived_at) < $cut
qualify row_number() over (
    partition by transaction_id, transaction_date
    order by revision desc, arrived_at desc, source desc, state desc
) = 1
order by transaction_date, transaction_id
"""

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
order by transactions.position
"""


def resolve_labels(labels: pa.Table, cut_us: int) -> pa.Table:
    """The label that counts for each transaction that has one, as RESOLVED, ordered by transaction.

    labels: LABELS rows in any order. cut_us: UTC microseconds; a label that arrived at the cut is not known yet.
    """
    with _connect() as connection:
        connection.register("labels", labels)
        result: pa.Table = connection.sql(_RESOLVE, params={"cut": cut_us}).to_arrow_table()
    return result.cast(RESOLVED)


def label_transactions(transactions: pa.Table, resolved: pa.Table, cut_us: int, maturity_days: int) -> pa.Table:
    """`transactions`, in their order, with `is_fraud` (bool): null is unknown, and must not be used.

    transactions: has transaction_id, transaction_date, received_at, and `blocked` (bool) where it may be. resolved:
    `resolve_labels` at the same cut. A transaction without a label is good once it is `maturity_days` old at the cut,
    and unknown before; a blocked one stays unknown.
    """
    keys = transactions.select(["transaction_id", "transaction_date", "received_at"])
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
