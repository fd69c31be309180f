"""The inference log in the lake: one folder per UTC day of received_at, written in parts, merged when the day is over.

What belongs here: columns, commits, reading, merging, retention. What does not: where records come from (`consumer`),
the record of how far the log has them (`positions`).

A commit writes parts that nobody else can name, then moves the offsets behind them. A file is removed
only once what it held lies in another, or is too old to keep. So whoever is killed, or writes beside another, loses
nothing: what the offsets do not tell, the decisions' ids do, on a folder and on an object store alike.
"""

import io
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud_platform.decision.standing import standing_of
from fraud_platform.inference_log.broker import Offsets
from fraud_platform.inference_log.positions import Committed, Positions
from fraud_platform.inference_log.record import MARKED, DecisionRecord, Identity, decode_record
from fraud_platform.lake import Lake, day_of
from fraud_platform.schema import TIME

TABLE = "inference_log"
REJECTED = "inference_log_rejected"

_ROW_GROUP = 10_000
_KEY = ("decision_id", "superseded_by")
_OF_PAYMENT = ("decision_id", "caller", "transaction_id")


def _field(name: str, dtype: pa.DataType, meaning: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, dtype, nullable=nullable, metadata={"description": meaning})


SCHEMA = pa.schema(
    [
        _field("decision_id", pa.string(), "unique per decision"),
        _field("caller", pa.string(), "whose API key asked"),
        _field("transaction_id", pa.string(), "identifier given by the caller"),
        _field("user_id", pa.string(), "who pays"),
        _field("merchant_id", pa.string(), "who is paid"),
        _field("received_at", TIME, "when the payment reached the service; its UTC day is the partition"),
        _field("event_time", TIME, "timestamp, or received_at where the caller's clock was off"),
        _field("amount_minor", pa.int64(), "amount in minor units of `currency`"),
        _field("currency", pa.string(), "ISO 4217 code"),
        _field(
            "amount", pa.int64(), "amount in minor units of the base currency; null: there was no rate", nullable=True
        ),
        _field("country", pa.string(), "country of the purchase"),
        _field("user_country", pa.string(), "home country of the user", nullable=True),
        _field("merchant_category", pa.string(), "merchant category code or name", nullable=True),
        _field("channel", pa.string(), "as the caller sent it", nullable=True),
        _field("decision", pa.string(), "allow, block or flag_for_review"),
        _field("reason", pa.string(), "why"),
        _field("score", pa.float64(), "calibrated probability; null where the rules decided", nullable=True),
        _field("threshold", pa.float64(), "a strictly greater score is blocked"),
        _field("review_threshold", pa.float64(), "a strictly greater score is flagged for review"),
        _field("model_version", pa.string(), "name/version"),
        _field("policy_version", pa.int32(), "of thresholds and rules"),
        _field("user_features", pa.string(), "store that served the user's batch features"),
        _field("merchant_features", pa.string(), "store that served the merchant's batch features"),
        _field("model", pa.string(), "what decided: a rung of the model, rules, list or kill_switch"),
        _field("degraded", pa.bool_(), "anything was served by other than the first source"),
        _field("user_snapshot", pa.string(), "snapshot of the user's batch features", nullable=True),
        _field("merchant_snapshot", pa.string(), "snapshot of the merchant's batch features", nullable=True),
        _field("epoch", pa.string(), "velocity's epoch; null: velocity did not answer", nullable=True),
        _field("user_effective_time", pa.int64(), "as velocity assigned it, UTC microseconds", nullable=True),
        _field("merchant_effective_time", pa.int64(), "the same at the merchant", nullable=True),
        _field("catalogue_hash", pa.string(), "catalogue that `vector` follows"),
        _field(
            "vector",
            pa.list_(pa.field("element", pa.float32())),
            "the values that were scored, in the catalogue's order; null is NaN",
        ),
        _field("arm", pa.string(), "whose turn it was: champion or challenger", nullable=True),
        _field("other_version", pa.string(), "model beside the one that decided", nullable=True),
        _field("other_score", pa.float64(), "its score of the payment; it decided nothing", nullable=True),
        _field("other_catalogue_hash", pa.string(), "its set of features, where it is another", nullable=True),
        _field("other_degraded", pa.bool_(), "its own rows were of other than the first source", nullable=True),
        _field("scored_by", pa.string(), "what gave the score; null in old files, where `model` did", nullable=True),
        _field("propensity", pa.float64(), "probability by which a block was let through to measure", nullable=True),
        _field("region", pa.string(), "where it was decided; empty, and null in old files: the first", nullable=True),
        _field(
            "superseded_by",
            pa.string(),
            "decision_id of the decision that stands in place of this one, which was told; null: it stands",
            nullable=True,
        ),
        _field("user_counted_since", pa.int64(), "start of the user's own epoch of velocity, or 0", nullable=True),
        _field("merchant_counted_since", pa.int64(), "the same of the merchant's", nullable=True),
        _field("latency_us", pa.int64(), "from received_at until the decision stood, microseconds"),
        _field("record", pa.binary(), "the whole record as it was written, MessagePack"),
    ]
)
"""One decision. What is not a column of its own is in `record`."""


def rows(records: Iterable[tuple[DecisionRecord, bytes]]) -> pa.Table:
    """Records and their encoded bytes as rows of SCHEMA."""
    plain = [_row(record, payload) for record, payload in records]
    return pa.Table.from_pylist(plain, SCHEMA)


def _row(record: DecisionRecord, payload: bytes) -> dict[str, Any]:
    request, served = record.request, record.served_by
    return {
        **{name: getattr(record, name) for name in _OF_RECORD},
        **{name: getattr(request, name) for name in _OF_REQUEST},
        "user_features": served.user_features,
        "merchant_features": served.merchant_features,
        "model": served.model,
        "degraded": record.degraded,
        "scored_by": record.rung,
        "vector": np.frombuffer(record.vector, "<f4"),
        "record": payload,
    }


_OF_RECORD = [
    *(name for name in SCHEMA.names if name in DecisionRecord.__struct_fields__ and name not in ("vector", "channel")),
    *("other_catalogue_hash", "other_degraded"),
]
_OF_REQUEST = (
    *("transaction_id", "user_id", "merchant_id", "amount_minor", "currency", "country"),
    *("user_country", "merchant_category", "channel"),
)


class LogTable:
    """The log's table in a lake. Each partition has one writer at a time; readers and `merge` may run beside them."""

    def __init__(self, lake: Lake, writer: str = "") -> None:
        """writer: who commits by this object."""
        self._lake = lake
        self.positions = Positions(lake, f"{TABLE}/committed", writer)

    def committed(self) -> Committed:
        """What the last commit says."""
        return self.positions.read()

    def commit(self, table: pa.Table, offsets: Mapping[str, Offsets], rejected: Sequence[bytes] = ()) -> list[str]:
        """Add rows, then note the offsets behind them, per source; returns the parts' paths.

        Raises OtherWriterError, and moves no offset, where one of these partitions is not, or is no longer, where this
        writer left it; others may be moved by others meanwhile. rejected: what is no record, kept for people; after a
        kill, perhaps twice.
        """
        move = self.positions.begin(offsets)
        number = move.after + 1
        days = table.column("received_at").cast(pa.date32())
        parts = [self._add(day, number, table.filter(pc.equal(days, day))) for day in pc.unique(days).to_pylist()]
        if rejected:
            path = self._lake.part_path(REJECTED, date.max, _part(number))
            self._lake.write_bytes(path, _parquet(pa.table({"payload": pa.array(rejected, pa.binary())})))
        self.positions.finish(move)
        return parts

    def fold(self, day: date, parts: Sequence[str]) -> None:
        """Make one part of several of a day, which then are gone; nothing where some of them were merged already."""
        try:
            whole = self._each_once(list(parts), SCHEMA.names)
        except FileNotFoundError:
            return
        # behind them by its name: a listing that began before this and ends after it meets the one or the others
        self._add(day, self.committed().number + 1, whole)
        self._lake.remove(parts)

    def _add(self, day: date, number: int, rows_of_day: pa.Table) -> str:
        path = self._lake.part_path(TABLE, day, _part(number))
        self._lake.write_bytes(path, _parquet(rows_of_day))
        return path

    def days(self) -> list[date]:
        """Days that hold a decision, ascending."""
        return sorted(set(map(day_of, self._lake.files(TABLE, "*.parquet"))))

    def told(self, day: date, columns: list[str] | None = None) -> pa.Table:
        """Every decision of a day that a caller was told, each once, by received_at; without rows when there are none.
        One that another stands in place of is marked where `superseded_by` is."""
        while True:
            try:
                return self._each_once(self._lake.files(TABLE, "*.parquet", day), columns or SCHEMA.names)
            except FileNotFoundError:
                # merged meanwhile: the rows are in another file now
                continue

    def read(self, day: date, columns: list[str] | None = None) -> pa.Table:
        """The decisions of a day that stand, each once, by received_at; without rows when there are none.

        Where several of one payment bear no mark, since whoever told the one has ended before it met the other, the
        order of `decision.standing` says which of them stands.
        """
        wanted = columns or SCHEMA.names
        whole = self.told(day, list(dict.fromkeys([*_OF_PAYMENT, "superseded_by", *wanted])))
        whole = whole.filter(pc.is_null(whole["superseded_by"]))
        contested = self._contested(day, whole)
        return (whole if contested is None else whole.filter(contested)).select(wanted)

    def _contested(self, day: date, unmarked: pa.Table) -> pa.Array | None:
        """Which rows stand, where some payment has several in a region; None where none has."""
        payments = unmarked.group_by([*_OF_PAYMENT[1:]]).aggregate([("decision_id", "count")])
        if payments.num_rows == unmarked.num_rows:
            return None
        several = payments.filter(pc.greater(payments["decision_id_count"], 1))
        named = pc.is_in(unmarked["transaction_id"], value_set=several["transaction_id"].combine_chunks())
        wanted = set(unmarked["decision_id"].filter(named).to_pylist())
        by_payment: dict[tuple[str, str, str], list[DecisionRecord]] = defaultdict(list)
        everything = self.told(day, ["decision_id", "record"])
        chosen = pc.is_in(everything["decision_id"], value_set=pa.array(sorted(wanted), pa.string()))
        for payload in everything["record"].filter(chosen):
            record = decode_record(payload.as_py())
            by_payment[record.caller, record.request.transaction_id, record.region].append(record)
        fallen: set[str] = set()
        for records in by_payment.values():
            standing = standing_of(records)
            fallen |= {record.decision_id for record in records if record is not standing}
        return pc.invert(pc.is_in(unmarked["decision_id"], value_set=pa.array(sorted(fallen), pa.string())))

    def records(self, day: date, *, told: bool = False) -> Iterator[DecisionRecord]:
        """A day's records that stand, or all that were told, each once, by received_at."""
        rows_of_day = self.told(day, ["record"]) if told else self.read(day, ["record"])
        for payload in rows_of_day.column("record"):
            yield decode_record(payload.as_py())

    def log_keys(self, day: date, most: int | None = None) -> set[str]:
        """`DecisionRecord.log_key` of what is committed of a day; the files of the last `most` of them are enough."""
        found: set[str] = set()
        # the parts' names ascend with their commits, behind the merged file's
        for path in reversed(self._lake.files(TABLE, "*.parquet", day)):
            if most is not None and len(found) >= most:
                break
            found.update(self._keys(path))
        return found

    def _keys(self, path: str, wanted: pc.Expression | None = None) -> list[str]:
        part = _conformed(self._lake.read_file(path, [*_KEY], wanted), [*_KEY])
        marked = pc.if_else(pc.is_valid(part["superseded_by"]), MARKED, "")
        keys: list[str] = pc.binary_join_element_wise(part["decision_id"], marked, "").to_pylist()
        return keys

    def log_keys_of(self, day: date, first: int, last: int) -> set[str]:
        """The same of what was received from `first` to `last`, UTC microseconds.

        A file's row groups know their times, so the rest of the day is not read.
        """
        received = pc.field("received_at")
        within = (received >= pa.scalar(first, TIME)) & (received <= pa.scalar(last, TIME))
        files = self._lake.files(TABLE, "*.parquet", day)
        return {key for path in files for key in self._keys(path, within)}

    def decided_among(self, day: date, transaction_ids: pa.Array) -> set[tuple[str, str]]:
        """Which of some transaction_ids have a decision of a day that is not marked: caller and transaction_id."""
        columns = ["caller", "transaction_id", *_KEY]
        wanted = pc.field("transaction_id").isin(transaction_ids)
        while True:
            try:
                files = self._lake.files(TABLE, "*.parquet", day)
                parts = [_conformed(self._lake.read_file(path, columns, wanted), columns) for path in files]
            except FileNotFoundError:
                # merged meanwhile: the rows are in another file now
                continue
            rows = pa.concat_tables([SCHEMA.empty_table().select(columns), *parts])
            # a mark is a row of its own, beside the one that was written when the decision was told
            fallen = rows["decision_id"].filter(pc.is_valid(rows["superseded_by"])).combine_chunks()
            rows = rows.filter(pc.invert(pc.is_in(rows["decision_id"], value_set=fallen)))
            return set(zip(rows["caller"].to_pylist(), rows["transaction_id"].to_pylist(), strict=True))

    def find(self, wanted: Collection[Identity], until: date, days: int) -> dict[Identity, list[DecisionRecord]]:
        """Each caller's records on a transaction in the `days` UTC days that end with `until`, back to the first day on
        which one stands."""
        found: dict[Identity, list[DecisionRecord]] = {identity: [] for identity in wanted}
        for day in reversed([day for day in self.days() if until - timedelta(days=days) < day <= until]):
            left = {identity for identity, records in found.items() if standing_of(records) is None}
            if not left:
                break
            transactions = {transaction_id for _, transaction_id in left}
            for record in self._records(day, partial(self._lake.rows_of, key="transaction_id", values=transactions)):
                if record.identity in left:
                    found[record.identity].append(record)
        return found

    def named(self, identifier: str) -> list[DecisionRecord]:
        """Every decision that has this decision_id or transaction_id, of any day and caller."""
        wanted = (pc.field("decision_id") == identifier) | (pc.field("transaction_id") == identifier)

        def rows_of(path: str, columns: list[str]) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self._lake.read_file(path, columns, wanted).to_pylist()
            return found

        return [record for day in self.days() for record in self._records(day, rows_of)]

    def _records(self, day: date, rows_of: Callable[..., list[dict[str, Any]]]) -> list[DecisionRecord]:
        """A day's records by what is read of each of its files: rows_of(path, columns=…)."""
        while True:
            try:
                return [
                    decode_record(row["record"])
                    for path in self._lake.files(TABLE, "*.parquet", day)
                    for row in rows_of(path, columns=["record"])
                ]
            except FileNotFoundError:
                # merged meanwhile: the rows are in another file now
                continue

    def merge(self, day: date) -> int:
        """Make one file of a day's parts, by transaction_id; returns its rows.

        Killed and done again, or done by two at once, all is well: who finds that the file has changed begins again.
        """
        merged = self._lake.path(TABLE, day)
        while True:
            seen = self._lake.seen(merged)
            paths = self._lake.files(TABLE, "*.parquet", day)
            try:
                whole = self._each_once(paths, SCHEMA.names)
            except FileNotFoundError:
                continue
            whole = whole.sort_by([(name, "ascending") for name in ("transaction_id", "received_at", "decision_id")])
            if self._lake.replace(merged, _parquet(whole), seen):
                self._lake.remove([path for path in paths if path != merged])
                return int(whole.num_rows)

    def unmerged(self, before: date) -> list[date]:
        """Days before another that lie in parts, ascending."""
        return sorted(day for day in set(map(day_of, self._lake.files(TABLE, "part-*.parquet"))) if day < before)

    def expired(self, today: date, keep_days: int) -> list[date]:
        """Days older than `keep_days` before `today`."""
        return [day for day in self.days() if day < today - timedelta(days=keep_days)]

    def delete(self, days: Iterable[date]) -> None:
        """Delete whole days."""
        for day in days:
            self._lake.remove(self._lake.files(TABLE, "*.parquet", day))

    def _each_once(self, paths: list[str], columns: list[str]) -> pa.Table:
        """The rows of some files; a decision that is in two of them, because a merge was killed or it was marked later,
        once, and then with its mark."""
        keys = ["received_at", *_KEY]
        wanted = list(dict.fromkeys([*keys, *columns]))
        parts = [_conformed(self._lake.read_file(path, wanted), wanted) for path in paths]
        if not parts:
            return SCHEMA.empty_table().select(columns)
        whole = pa.concat_tables(parts).combine_chunks()
        order = pc.sort_indices(whole, sort_keys=[(key, "ascending") for key in keys])
        identifiers = whole.column("decision_id").take(order).combine_chunks()
        first = np.ones(len(order), bool)
        if len(order) > 1:
            first[1:] = pc.not_equal(identifiers[1:], identifiers[:-1]).to_numpy(zero_copy_only=False)
        return whole.take(order.filter(pa.array(first))).select(columns)


def _conformed(part: pa.Table, columns: list[str]) -> pa.Table:
    """A file's rows with every column that is asked for: one that is younger than the file is null."""
    present = set(part.column_names)
    fields = [SCHEMA.field(name) for name in columns]
    arrays = [part.column(f.name) if f.name in present else pa.nulls(part.num_rows, f.type) for f in fields]
    return pa.table([array.cast(f.type) for array, f in zip(arrays, fields, strict=True)], pa.schema(fields))


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    # a transaction is looked for in a merged day by its row groups' bounds
    pq.write_table(table, sink, compression="zstd", row_group_size=_ROW_GROUP)
    return sink.getvalue()


def _part(number: int) -> str:
    """A name that no other writer can come to: two that write the same number write two files."""
    return f"part-{number:012d}-{uuid.uuid4().hex}"
