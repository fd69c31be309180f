"""What a model learns from and is measured on: training-set partitions with the labels known at a cut.

What belongs here: reading vectors and labels of a split, medians, and the versions of all that. What does not: the
split itself (`split`), which label counts (`features.labels`).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, ENTITIES, Catalogue
from fraud_platform.features.gaps import refuse_gaps
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.features.labels import label_transactions, read_labels, resolve_labels
from fraud_platform.features.tables import tables_of
from fraud_platform.inference_log.callers import with_callers
from fraud_platform.lake import Lake, days_between
from fraud_platform.model.served import decisions_version, refuse_skew, with_decisions
from fraud_platform.model.split import Split, TrainingDataError, microseconds, plan_split
from fraud_platform.settings import Settings

Matrix = NDArray[np.float32]
Bools = NDArray[np.bool_]

EPOCH = date(1970, 1, 1)
_KEYS = ("caller", "transaction_id", "transaction_date", "received_at")
CONTEXT = ("transaction_id", "received_at", "user_id", "amount_minor", "country", "channel")
"""Columns of the training set that are no features and that evaluation slices and sums by."""


@dataclass(frozen=True)
class Examples:
    """Labelled vectors in the order of the training set; transactions of unknown label are left out and counted."""

    vectors: Matrix
    """(n, features), C-contiguous, NaN for null."""
    is_fraud: Bools
    days: NDArray[np.int32]
    """(n,), ascending: the partition's UTC day of each, in days since 1970."""
    unknown: int
    weights: NDArray[np.float64] | None = field(default=None, kw_only=True)
    """(n,): above 1 for payments let through to be measured, which stand for the blocked; None: all weigh 1."""
    catalogue: Catalogue = field(default=CATALOGUE, kw_only=True)
    """The features of the vectors."""

    def __len__(self) -> int:
        return len(self.is_fraud)

    def batches(self) -> Iterator[Matrix]:
        """All vectors at once."""
        yield self.vectors

    @property
    def frauds(self) -> int:
        """How many of the examples are fraud."""
        return int(self.is_fraud.sum())


class Learnable(Protocol):
    """What trees grow from, of n rows: `Examples`, or `stored.StoredExamples` where their vectors exceed memory."""

    @property
    def is_fraud(self) -> Bools:
        """(n,)"""

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """(n,), as in Examples."""

    @property
    def frauds(self) -> int:
        """How many are fraud."""

    @property
    def catalogue(self) -> Catalogue:
        """The features of the vectors."""

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[Matrix]:
        """The vectors in the rows' order, (k, features) each; every call begins at the first."""


def joined(parts: Sequence[Examples]) -> Examples:
    """The examples of all parts, which are of one set of features, in order."""
    return Examples(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.is_fraud for part in parts]),
        np.concatenate([part.days for part in parts]),
        sum(part.unknown for part in parts),
        weights=_stacked_weights(parts),
        catalogue=parts[0].catalogue,
    )


def _stacked_weights(parts: Sequence[Examples]) -> NDArray[np.float64] | None:
    """The weights of all parts in order, None where none has any."""
    if all(part.weights is None for part in parts):
        return None
    return np.concatenate([np.ones(len(part)) if part.weights is None else part.weights for part in parts])


@dataclass(frozen=True)
class Holdout(Examples):
    """Examples with what an evaluation has to know of each beside its vector."""

    context: pa.Table
    """CONTEXT columns, (n,): who, when, how much and from where."""


@dataclass(frozen=True)
class TrainingData:
    """The three windows of a split."""

    train: Examples
    validation: Examples
    holdout: Holdout


def find_split(lake: Lake, settings: Settings, now: datetime, catalogue: Catalogue = CATALOGUE) -> Split:
    """The split of the history that the lake holds before `now`'s day.

    The history ends where either the training set or the labels end: a day without its labels would look matured while
    nobody could have reported a fraud. Raises TrainingDataError.
    """
    ends = []
    for table in (tables_of(catalogue).training_set, tables.FRAUD_LABELS):
        days = [day for day in lake.days(table) if day < now.date()]
        if not days:
            raise TrainingDataError(f"{table} has no partition before {now.date()} under {lake.root}; build it first")
        ends.append((days[0], days[-1]))
    return plan_split(ends[0][0], min(end for _, end in ends), settings)


def load_examples(
    lake: Lake,
    days: Sequence[date],
    resolved: pa.Table,
    cut: date,
    maturity_days: int,
    catalogue: Catalogue = CATALOGUE,
) -> Examples:
    """The examples of the partitions of `days` that exist. resolved: labels as of `cut`."""
    return _load(lake, days, resolved, cut, maturity_days, catalogue)[0]


Load = Callable[[Lake, Sequence[date], pa.Table, date, int, Catalogue], Examples]
"""`load_examples`, or what stands in for it where the examples exceed memory (`stored.load_sample`)."""


def load_training_data(
    lake: Lake,
    split: Split,
    rules: LabelRules,
    accepted_skew_days: Sequence[date] = (),
    load: Load = load_examples,
    catalogue: Catalogue = CATALOGUE,
) -> TrainingData:
    """Train, by `load`, and validation with the labels known at the training cut, holdout with those of the evaluation
    cut; which labels count, `rules` say.

    Raises TrainingDataError when train or holdout hold no fraud or nothing but fraud, and for a day of which served and
    recomputed values differ, unless it is among `accepted_skew_days`; GapError for a day that was never built.
    """
    refuse_skew(lake, split.days, accepted_skew_days)
    refuse_gaps(lake, tables_of(catalogue).training_set, split.days)
    known = labels_before(lake, split.training_cut, rules)
    train = load(lake, split.train, known, split.training_cut, split.waited_days, catalogue)
    validation = load_examples(lake, split.validation, known, split.training_cut, split.waited_days, catalogue)
    holdout = load_holdout(lake, split, rules, catalogue)
    for name, examples, days in (("train", train, split.train), ("holdout", holdout, split.holdout)):
        if examples.frauds in (0, len(examples)):
            raise TrainingDataError(
                f"{name}, {days[0]} to {days[-1]}, has {examples.frauds} known frauds among {len(examples)} labelled "
                "transactions; both kinds are needed: ingest more history or labels, or widen the window by a setting"
            )
    return TrainingData(train, validation, holdout)


def load_holdout(lake: Lake, split: Split, rules: LabelRules, catalogue: Catalogue = CATALOGUE) -> Holdout:
    """The holdout with the labels known at the evaluation cut."""
    labels = labels_before(lake, split.evaluation_cut, rules)
    examples, known = _load(lake, split.holdout, labels, split.evaluation_cut, split.maturity_days, catalogue)
    context = lake.read_days(tables_of(catalogue).training_set, split.holdout, CONTEXT)
    return Holdout(
        examples.vectors,
        examples.is_fraud,
        examples.days,
        examples.unknown,
        pa.table({name: [] for name in CONTEXT}) if context is None else context.filter(pa.array(known)),
        weights=examples.weights,
        catalogue=catalogue,
    )


def _load(
    lake: Lake, days: Sequence[date], resolved: pa.Table, cut: date, maturity_days: int, catalogue: Catalogue
) -> tuple[Examples, Bools]:
    """The examples, and which rows of the partitions they are."""
    known = find_known(lake, days, resolved, cut, maturity_days, catalogue)
    vectors, ordinals = read_vectors(lake, days, known.rows, catalogue)
    given, unknown = known.weights if (known.weights != 1).any() else None, int((~known.rows).sum())
    return Examples(vectors, known.is_fraud, ordinals, unknown, weights=given, catalogue=catalogue), known.rows


@dataclass(frozen=True)
class Known:
    """What is known of the rows of some partitions, n of them, of which m have a label."""

    rows: Bools
    """(n,): which have one."""
    is_fraud: Bools
    """(m,)"""
    weights: NDArray[np.float64]
    """(m,)"""


def find_known(
    lake: Lake,
    days: Sequence[date],
    resolved: pa.Table,
    cut: date,
    maturity_days: int,
    catalogue: Catalogue = CATALOGUE,
) -> Known:
    """Which rows of the partitions of `days` that exist are labelled, and how. resolved: labels as of `cut`."""
    keys = lake.read_days(tables_of(catalogue).training_set, days, _KEYS)
    if keys is None:
        return Known(np.empty(0, np.bool_), np.empty(0, np.bool_), np.empty(0))
    keys = with_decisions(lake, days, with_callers(lake, keys))
    is_fraud = label_transactions(keys, resolved, microseconds(cut), maturity_days).column("is_fraud")
    known = np.asarray(pc.is_valid(is_fraud).to_numpy(zero_copy_only=False), np.bool_)
    labels = np.asarray(pc.fill_null(is_fraud, False).to_numpy(zero_copy_only=False), np.bool_)
    return Known(known, labels[known], keys["weight"].to_numpy()[known])


def read_vectors(
    lake: Lake, days: Sequence[date], known: Bools, catalogue: Catalogue
) -> tuple[Matrix, NDArray[np.int32]]:
    """Vectors and days, as in Examples, of those rows of the partitions of `days` that are `known`."""
    # one matrix filled day by day: neither pandas nor a second copy of everything
    names, table = catalogue.names, tables_of(catalogue).training_set
    vectors = np.empty((int(known.sum()), len(names)), np.float32)
    ordinals = np.empty(len(vectors), np.int32)
    read = filled = 0
    for day in tqdm(days, desc="training data", unit="day", disable=None, leave=False):
        if not lake.exists(table, day):
            continue
        rows = lake.read(table, day, names)
        kept = known[read : read + rows.num_rows]
        end = filled + int(kept.sum())
        for index, name in enumerate(names):
            vectors[filled:end, index] = rows.column(name).to_numpy(zero_copy_only=False)[kept]
        ordinals[filled:end] = (day - EPOCH).days
        read, filled = read + rows.num_rows, end
    return vectors, ordinals


def newest_medians(
    lake: Lake, last_day: date, catalogue: Catalogue = CATALOGUE
) -> tuple[date, dict[str, list[float | None]]]:
    """The newest snapshot's cold-start medians up to `last_day`, in the catalogue's order, and its day.

    They travel with the model for when no snapshot can be read. Raises TrainingDataError.
    """
    table = tables_of(catalogue).feature_medians
    days = [day for day in lake.days(table) if day <= last_day]
    if not days:
        raise TrainingDataError(f"{table} has no partition up to {last_day} under {lake.root}")
    rows = lake.read(table, days[-1]).to_pylist()
    medians = {row["feature"]: row["median"] for row in rows}
    return days[-1], {entity: [medians[feature.name] for feature in catalogue.of(entity)] for entity in ENTITIES}


def data_versions(
    lake: Lake, split: Split, medians_day: date, rules: LabelRules, catalogue: Catalogue = CATALOGUE
) -> dict[str, dict[str, str | int]]:
    """Per table that a training reads: first and last day, partitions, and a SHA-256 over the days and their files; of
    labels over `rules` as well, by which they count."""
    own = tables_of(catalogue)
    used = {
        own.training_set: split.days,
        tables.FRAUD_LABELS: days_between(split.first_day, split.last_day),
        own.feature_medians: [medians_day],
    }
    versions: dict[str, dict[str, str | int]] = {}
    for table, days in used.items():
        written = set(lake.days(table))
        digest = hashlib.sha256(rules.digest.encode() if table == tables.FRAUD_LABELS else b"")
        present = [day for day in days if day in written]
        for day in present:
            with lake.open(table, day) as file:
                digest.update(day.isoformat().encode() + hashlib.sha256(file.read()).digest())
        versions[table.split("/")[0]] = {
            "first_day": present[0].isoformat() if present else "",
            "last_day": present[-1].isoformat() if present else "",
            "partitions": len(present),
            "sha256": digest.hexdigest(),
        }
    decisions = decisions_version(lake, split.days)
    return versions if decisions is None else versions | {"inference_log": decisions}


def labels_before(lake: Lake, cut: date, rules: LabelRules) -> pa.Table:
    """The labels that arrived before 00:00 UTC of `cut`, resolved as of then by `rules`. Raises GapError where a day
    between two of theirs was never built: frauds that became known on it would pass for good payments."""
    days = [day for day in lake.days(tables.FRAUD_LABELS) if day < cut]
    if days:
        refuse_gaps(lake, tables.FRAUD_LABELS, days_between(days[0], days[-1]))
    return resolve_labels(read_labels(lake, days), microseconds(cut), rules)
