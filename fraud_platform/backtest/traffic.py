"""Past traffic, a day at a time: each payment's columns, its vector, and what ran.

What belongs here: where past payments come from. What does not: what would have been done with them (`what`).

Two sources make a day. Decisions of the service are in the inference log, with the vector that was scored and what was
decided. Payments of imported history are in the training set, with the vector that serving would have computed; nothing
of this platform decided them, so what ran is what the release in force says of that vector. A payment that is in both
is the log's.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud_platform import schema
from fraud_platform.currency import exponent
from fraud_platform.decision.serving_model import ServingModel
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.labels import with_caller
from fraud_platform.features.tables import tables_of
from fraud_platform.features.training_set import training_schema
from fraud_platform.features.vector import Matrix
from fraud_platform.inference_log.callers import with_callers
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from fraud_platform.processing import identities

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Span = tuple[date, date]
"""First and last day."""

_MOMENT = pa.timestamp("us")
_PLAIN = [
    *(pa.field(name, pa.string()) for name in ("transaction_id", "user_id", "merchant_id")),
    pa.field("amount", pa.float64()),
    *(pa.field(name, pa.string()) for name in ("currency", "country", "user_country", "merchant_category")),
    *(pa.field(name, pa.string()) for name in ("channel", "device_id")),
    *(pa.field(name, pa.float64()) for name in ("latitude", "longitude")),
    *(pa.field(name, _MOMENT) for name in ("received_at", "event_time")),
    pa.field("clock_skew", pa.bool_()),
    pa.field("caller", pa.string()),
    pa.field("score", pa.float64()),
]
_TYPES = {field.name: field.type for field in _PLAIN}


def payments_schema(catalogue: Catalogue) -> pa.Schema:
    """What a rule may speak of. All money is in units of the base currency, `amount` as the caller's contract has it;
    times are UTC; `score` is what ran's, null where it gave none; every feature but `amount`, null where it was."""
    return pa.schema([*_PLAIN, *(pa.field(name, pa.float64()) for name in catalogue.names if name != "amount")])


_OF_RAW = ("currency", "merchant_category", "device_id", "latitude", "longitude", "clock_skew")
_OF_TRAINING = ("transaction_id", "caller", "user_id", "merchant_id", "country", "user_country", "channel")
_OF_REQUEST = (
    *("transaction_id", "user_id", "merchant_id", "currency", "country", "user_country", "merchant_category"),
    *("device_id", "latitude", "longitude"),
)


@dataclass(frozen=True)
class Day:
    """A UTC day of received_at; arrays of shape (n,)."""

    day: date
    payments: pa.Table
    """`payments_schema` of the traffic's features."""
    callers: pa.Array
    """Whose each is: no rule speaks of it, labels are found by it."""
    vectors: Matrix
    """(n, features), NaN for null; a row of nulls where no vector was built, or one of another catalogue."""
    amounts: Floats
    """Minor units of the base currency; NaN where it is not known."""
    received_at: NDArray[np.int64]
    """UTC microseconds."""
    decided: Bools
    """The service decided it; else it is of imported history."""
    ran_block: Bools
    """What ran blocked it."""
    ran_alert: Bools
    """What ran blocked it or flagged it for review."""

    @property
    def built(self) -> Bools:
        """Whether a vector was built."""
        return np.asarray(~np.isnan(self.vectors).all(axis=1), np.bool_)


@dataclass(frozen=True)
class _Part:
    """Payments of one source; `columns` are those of `payments_schema` that are no money and no feature."""

    columns: dict[str, pa.Array]
    callers: pa.Array
    vectors: Matrix
    amounts: Floats
    scores: Floats
    ran_block: Bools
    ran_alert: Bools


@dataclass(frozen=True)
class InForce:
    """The release in force, and the bands that it decides by."""

    model: ServingModel
    threshold: float
    review_threshold: float
    learned: Span | None
    """First and last day that its training saw; None where its bundle does not say."""


class Traffic:
    """The traffic of a lake. in_force: what history is held by; None where no release is in force. catalogue: the
    features of its vectors."""

    def __init__(
        self, lake: Lake, base_currency: str, in_force: InForce | None, catalogue: Catalogue = CATALOGUE
    ) -> None:
        self.lake = lake
        self.catalogue = catalogue
        self.in_force = in_force
        self._log = LogTable(lake)
        self._unit = float(10 ** exponent(base_currency))

    def days(self, first: date | None, last: date | None) -> list[date]:
        """Days that have payments, ascending, between two days that are both included."""
        held = {*self.lake.days(tables_of(self.catalogue).training_set), *self._log.days()}
        return sorted(day for day in held if (first or day) <= day <= (last or day))

    def day(self, day: date) -> Day:
        """A day's payments: the log's, then those of history that the log does not have."""
        logged = self._logged(day)
        history = self._history(day, _identities(logged.columns))
        parts = [logged, history]
        vectors = np.concatenate([part.vectors for part in parts])
        amounts = np.concatenate([part.amounts for part in parts])
        scores = np.concatenate([part.scores for part in parts])
        columns = {name: pa.concat_arrays([part.columns[name] for part in parts]) for name in logged.columns}
        return Day(
            day=day,
            payments=self._payments(columns, vectors, amounts, scores),
            callers=pa.concat_arrays([part.callers for part in parts]),
            vectors=vectors,
            amounts=amounts,
            received_at=columns["received_at"].cast(pa.int64()).to_numpy(zero_copy_only=False),
            decided=np.arange(len(amounts)) < len(logged.amounts),
            ran_block=np.concatenate([part.ran_block for part in parts]),
            ran_alert=np.concatenate([part.ran_alert for part in parts]),
        )

    def _payments(self, columns: dict[str, pa.Array], vectors: Matrix, amounts: Floats, scores: Floats) -> pa.Table:
        features = {}
        for position, feature in enumerate(self.catalogue.features):
            values = vectors[:, position].astype(np.float64)
            in_units = values / self._unit if feature.unit == "minor units" else values
            features[feature.name] = pa.array(in_units, from_pandas=True)
        whole = features | columns
        plain = {"amount": amounts / self._unit, "score": scores}
        whole |= {name: pa.array(values, from_pandas=True) for name, values in plain.items()}
        wanted = payments_schema(self.catalogue)
        return pa.table([whole[field.name] for field in wanted], wanted)

    def _logged(self, day: date) -> _Part:
        records = list(self._log.records(day))
        columns = {
            name: pa.array([getattr(record.request, name) for record in records], _TYPES[name]) for name in _OF_REQUEST
        }
        columns |= {
            name: pa.array([getattr(record, name) for record in records], _TYPES[name])
            for name in ("caller", "received_at", "event_time", "clock_skew")
        }
        columns["channel"] = pa.array([record.read_channel for record in records], _TYPES["channel"])
        width = len(self.catalogue.names)
        decisions = np.array([record.decision for record in records], np.str_)
        return _Part(
            columns=columns,
            callers=pa.array([record.caller for record in records], pa.string()),
            vectors=np.array([_vector(record, self.catalogue) for record in records], np.float32).reshape(-1, width),
            amounts=np.array([record.amount for record in records], np.float64),
            scores=np.array([record.score for record in records], np.float64),
            ran_block=np.asarray(decisions == "block", np.bool_),
            ran_alert=np.asarray(decisions != "allow", np.bool_),
        )

    def _history(self, day: date, logged: pa.Array) -> _Part:
        rows, raw = (
            with_callers(self.lake, self.lake.read(table, day)) if self.lake.exists(table, day) else empty.empty_table()
            for table, empty in (
                (tables_of(self.catalogue).training_set, training_schema(self.catalogue)),
                (tables.RAW_TRANSACTIONS, schema.RAW_TRANSACTIONS),
            )
        )
        rows = rows.filter(pc.invert(pc.is_in(identities(rows), value_set=logged)))
        vectors = np.empty((rows.num_rows, len(self.catalogue.names)), np.float32)
        for index, name in enumerate(self.catalogue.names):
            vectors[:, index] = rows.column(name).to_numpy(zero_copy_only=False)
        columns = {name: _one(rows.column(name).cast(_TYPES[name])) for name in _OF_TRAINING}
        columns |= {name: _one(rows.column(name).cast(_MOMENT)) for name in ("received_at", "event_time")}
        raw = raw.filter(pc.invert(raw.column("is_duplicate")))
        at = pc.index_in(identities(rows), value_set=identities(raw))
        columns |= {name: _one(raw.column(name)).take(at) for name in _OF_RAW}
        standing = self.in_force
        scores = np.full(len(vectors), np.nan) if standing is None else score_all(standing.model, vectors)
        threshold, review = (1.0, 1.0) if standing is None else (standing.threshold, standing.review_threshold)
        return _Part(
            columns=columns,
            callers=_one(with_caller(rows)["caller"]),
            vectors=vectors,
            amounts=rows.column("amount_minor").cast(pa.float64()).to_numpy(),
            scores=scores,
            ran_block=scores > threshold,
            ran_alert=scores > review,
        )


def score_all(model: ServingModel, vectors: Matrix) -> Floats:
    """Probabilities of fraud by a model's compiled trees, float64 (n,), of vectors float32 (n, features)."""
    return model.calibration.probabilities(model.compiled.margins(np.ascontiguousarray(vectors)))


def _vector(record: DecisionRecord, catalogue: Catalogue) -> Matrix:
    if record.catalogue_hash != catalogue.hash:
        return np.full(len(catalogue.names), np.nan, np.float32)
    return record.values


def _identities(columns: dict[str, pa.Array]) -> pa.Array:
    return identities(pa.table({name: columns[name] for name in ("caller", "transaction_id")}))


def _one(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
